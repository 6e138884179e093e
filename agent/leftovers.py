"""Files that an agent's work leaves behind and that no change should hold. Only what a change adds, and only by names
that leave no doubt: the service takes these out of the patch by itself. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from agent.hygiene import is_test_path
from agent.outcome import Patch

_FOLDERS = frozenset(
    {
        "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".venv", "htmlcov",
        ".nyc_output", ".ipynb_checkpoints", "node_modules", ".idea", ".vs",
    }
)  # fmt: skip
_NAMES = re.compile(
    r"""
      .*\.(py[co]|sw[op])
    | .*~ | \#.*\# | \.\#.* | \.DS_Store | Thumbs\.db | desktop\.ini
    | \.coverage(\..+)? | junit(-report)?\.xml
    """,
    re.VERBOSE,
)
_ENDINGS = (".orig", ".rej", ".bak", ".tmp")  # what a test reads may be called so, too
# Of a script that only shows the problem; at the root, since a folder's may belong to it.
_SCRIPT = re.compile(r"(repro(duce|duction)?|reproduce_\w+|repro_\w+|\w+_repro)\.(py|[cm]?[jt]s|sh|rb|go|php)")


def among(patch: Patch) -> tuple[str, ...]:
    """The paths of the leftovers that a patch adds, in its order."""
    return tuple(change.path for change in patch.files if change.status == "A" and is_leftover(change.path))


def is_leftover(path: str) -> bool:
    """Whether a file of this name, where there was none, is a leftover."""
    *folders, name = PurePosixPath(path).parts or ("",)
    if _FOLDERS & set(folders) or _NAMES.fullmatch(name) or (name.endswith(_ENDINGS) and not is_test_path(path)):
        return True
    return not folders and _SCRIPT.fullmatch(name) is not None
