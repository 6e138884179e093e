"""Which `.gitattributes` mean that files are kept in Git LFS."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.stages.large_files import kept_outside


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n", True),
        ("deep/er/.gitattributes", "*.txt text\n*.psd filter=lfs", True),
        (".gitattributes", "# *.bin filter=lfs\n*.txt text\n", False),
        (".gitattributes", "*.bin filter=lfsx\n*.c notfilter=lfs\n", False),
        ("gitattributes", "*.bin filter=lfs\n", False),
    ],
)
def test_what_counts(path, content, expected):
    tree = SimpleNamespace(list_files=lambda *_: (path,), read_file=lambda *_: content.encode())
    assert kept_outside(tree, Path("/nowhere"), "0" * 40) is expected
