"""What only level `basic` does: temporary places that are new for each command."""

from __future__ import annotations

import os

import pytest

from tests.sandboxes import place, sh

PLACES = ("/tmp", "/dev/shm", "/home/agent")
# Folders that nobody may enter or list, a thousand levels of them, and a name that looks like an option.
LEAVE = """
import os, sys
os.chdir(sys.argv[1])
for name in ("-rf", "closed"):
    os.makedirs(f"{name}/inner")
    open(f"{name}/inner/file", "w").close()
    os.symlink("/workspace", f"{name}/link")
os.chmod("closed/inner", 0)
os.chmod("closed", 0)
for _ in range(1000):
    os.mkdir("d")
    os.chdir("d")
os.chmod(sys.argv[1], 0)
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return place(tmp_path_factory.mktemp("basic"))


def _files(session) -> list[int]:
    """How many files each file system in memory holds."""
    held = [os.fstatvfs(fd) for fd in session._box.view.file_systems.values()]
    return [found.f_files - found.f_ffree for found in held]


def test_temporary_places_are_new_for_each_command_whatever_the_last_one_left(box):
    with box.session(tmp_bytes=64 << 20) as session:
        before = _files(session)
        for folder in PLACES:
            left = session.exec(["python3", "-I", "-c", LEAVE, folder], timeout=60)
            assert left.returncode == 0, left
            assert _files(session) == before
            assert sh(session, f"ls -A {folder}; touch {folder}/x").stdout.text == ""
        assert sh(session, "ls docs").stdout.text == "guide.txt\n"
        session.write("tmp-is-no-place-to-last", b"x")
        assert _files(session) == before


def test_a_command_that_could_not_be_made_leaves_nothing(box):
    with box.session() as session:
        before = _files(session)
        with pytest.raises(ValueError, match="NUL"):
            session.exec(["a\0b"], timeout=5)
        assert _files(session) == before
        assert sh(session, "stat -c %a /tmp /dev/shm /home/agent").stdout.text.split() == ["1777", "1777", "755"]
