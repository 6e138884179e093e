"""Where a server's files lie, so that the user it runs as can reach them.

Postgres refuses to run as root, so as root the servers run as `nobody`. That user can't look into a private home
directory; modes of directories that we did not make are never changed, the files move instead.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from worker.errors import SettingsError

NOBODY = 65534
_ELSEWHERE = Path("/var/lib/devstral-fix")


def server_uid() -> int | None:
    """The user a server must be started as; None means as ourselves."""
    return NOBODY if os.geteuid() == 0 else None


def reachable(path: Path) -> bool:
    """Whether the servers' user can get at `path` (all directories above it, and itself)."""
    if server_uid() is None:
        return True
    path = path.resolve()
    wanted = 0o001 if path.is_dir() else 0o004
    return bool(path.stat().st_mode & wanted) and all(parent.stat().st_mode & 0o001 for parent in path.parents)


def private_directory(path: Path) -> Path:
    """Make `path` if it is absent; it shows nothing to other users, and lets the servers' user pass through."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise SettingsError(f"{path} is not a directory; set DEVSTRAL_FIX_DATA_DIR to another one") from None
    except OSError as error:
        raise SettingsError(
            f"can't make {path} ({error.strerror}); set DEVSTRAL_FIX_DATA_DIR, e.g. to ~/.local/share/devstral-fix"
        ) from error
    else:
        if server_uid() is not None:
            path.chmod(0o711)
    return path


def base_for(directory: Path) -> Path:
    """The directory that holds the server's own files: `directory`, or one that the servers' user can reach.

    The second kind is recorded in `directory/elsewhere`, so that the data is found again.
    """
    if reachable(directory):
        return directory
    record = directory / "elsewhere"
    if not record.exists():
        parent = _ELSEWHERE
        try:
            parent.mkdir(mode=0o711, exist_ok=True)
        except OSError:
            parent = Path(tempfile.gettempdir())
        # Recorded before it is made: an interrupted start leaves nothing that nobody knows of.
        record.write_text(str(parent / f"{directory.name}-{secrets.token_hex(8)}"), encoding="utf-8")
    return private_directory(Path(record.read_text(encoding="utf-8")))


def remove(directory: Path) -> None:
    """Delete a stopped server's directory and whatever of it lies elsewhere."""
    record = directory / "elsewhere"
    if record.exists():
        shutil.rmtree(record.read_text(encoding="utf-8"), ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def give(path: Path) -> None:
    """Make the servers' user the owner of one of our own files or directories."""
    uid = server_uid()
    if uid is not None:
        os.chown(path, uid, uid)


def readable_copy(root: Path, parts: Sequence[str], destination: Path) -> Path:
    """`root` itself when the servers' user can read `parts` of it, else `destination` with a copy of them."""
    if all(reachable(root / part) for part in parts):
        return root
    if not destination.exists():
        fresh = destination.with_name(destination.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for part in parts:
            target = fresh / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (root / part).is_dir():
                shutil.copytree(root / part, target)
            else:
                shutil.copy2(root / part, target)
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044 | (path.stat().st_mode & 0o100) >> 6))
        fresh.rename(destination)
    return destination
