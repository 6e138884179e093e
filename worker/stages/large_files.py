"""Whether a repository keeps files in Git LFS: their content is not fetched, so a run sees pointers."""

from __future__ import annotations

import re
from pathlib import Path

from worker.stages.ports import Repositories

POINTERS = "This repository keeps files in Git LFS; a run sees their pointers, not their content."
_FILTER = re.compile(rb"^[^#\n]*[ \t]filter=lfs(?:[ \t\r]|$)", re.MULTILINE)
_MOST = 50


def kept_outside(repositories: Repositories, git_dir: Path, commit: str) -> bool:
    """Asked of `.gitattributes` files, anywhere in the tree; of very many the first ones."""
    named = [path for path in repositories.list_files(git_dir, commit) if path.rpartition("/")[2] == ".gitattributes"]
    return any(_FILTER.search(repositories.read_file(git_dir, commit, path) or b"") for path in named[:_MOST])
