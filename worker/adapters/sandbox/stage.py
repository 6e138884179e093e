"""Make host paths reachable for a uid that can't walk to them, such as anything below root's 0700 home.

bubblewrap resolves every source path again with the dropped uid's rights, also for --bind-fd (0.11 calls realpath
on it), so descriptors opened earlier don't help. Instead root mounts what a sandbox needs in a private mount
namespace, below a directory everybody can walk to; each bubblewrap is started in that namespace. The namespace
exists only through a descriptor of ours: nothing has to be unmounted, and the host's mounts don't change.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from worker.adapters.sandbox.process import Launch
from worker.adapters.sandbox.workspace import remove
from worker.errors import IsolationMissing, SandboxUnavailable

_PLACES = ("/mnt", "/media", "/srv", "/opt", "/run", "/var")
_TOOL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
# Arguments: the place, then a name and the options for each file system.
_SCRIPT = """set -e
place=$1; shift
mount -n -t tmpfs -o mode=0755,size=1m,nosuid,nodev devstral-fix "$place"
while [ $# -gt 0 ]; do
    mkdir "$place/$1"
    mount -n -t tmpfs -o "$2,nosuid,nodev" devstral-fix "$place/$1"
    shift 2
done
[ ! -d "$place/quota" ] || mkdir "$place/quota/upper" "$place/quota/work"
echo ready
read -r _
"""


_BLOCK = 4096  # bytes of a file system in memory for which it may hold one file
SCRATCH = {"tmp": "/tmp", "shm": "/dev/shm", "home": "/home/agent"}  # noqa: S108 - inside
_MODES = {"quota": 0o700, "tmp": 0o1777, "shm": 0o1777, "home": 0o755}


@dataclass(frozen=True)
class Quota:
    """File systems in memory with room for this many bytes, and one file per block of 4 KiB, and nothing more: `quota`
    for the workspace's changes (None: there is none), and those in place of bubblewrap's own, which have no limit of
    files: SCRATCH."""

    size: int | None
    scratch: int

    @property
    def file_systems(self) -> dict[str, str]:
        """The mount options of each, by its name below the view's place."""
        small = min(self.scratch, 64 << 20)
        sizes = {} if self.size is None else {"quota": self.size}
        sizes |= {"tmp": self.scratch, "shm": small, "home": small}
        return {
            name: f"mode={_MODES[name]:04o},size={size},nr_inodes={max(1024, size // _BLOCK)}"
            for name, size in sizes.items()
        }


@dataclass
class View:
    """Where the uid that runs bubblewrap finds host paths. `close` when no sandbox will be started from it again."""

    uid: int | None
    seen: dict[Path, str] = field(default_factory=dict)
    namespace: int = -1
    user_namespace: int = -1
    place: str = ""
    file_systems: dict[str, int] = field(default_factory=dict)  # descriptors of the quota's
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def path(self, source: Path) -> str:
        """`source`, which must be one of the view's paths or below one, as bubblewrap is to be told."""
        for parent in (source, *source.parents):
            if parent in self.seen:
                return str(Path(self.seen[parent]) / source.relative_to(parent))
        return str(source)

    def launch(self, bwrap: Path) -> Launch:
        if self.namespace < 0:
            return Launch(str(bwrap), uid=self.uid)
        # By our own pid, not through an inherited descriptor: nothing of this is left open inside.
        target = f"--mount=/proc/{os.getpid()}/fd/{self.namespace}"
        if self.uid is None:
            user = f"--user=/proc/{os.getpid()}/fd/{self.user_namespace}"
            return Launch(str(bwrap), prefix=(_tool("nsenter"), user, target, "--preserve-credentials"))
        drop = ("--setgid", str(self.uid), "--setuid", str(self.uid))  # also clears the supplementary groups
        return Launch(self.path(bwrap), prefix=(_tool("nsenter"), target, *drop))

    @contextmanager
    def scratch(self) -> Iterator[dict[str, str]]:
        """Directories for one command's temporary files by where they belong inside: new, and gone afterwards. All of
        a view's together have the room of its file systems."""
        name = str(next(self._numbers))
        with ExitStack() as stack:
            for kind in SCRATCH:
                fd = self.file_systems[kind]
                os.mkdir(name, dir_fd=fd)
                stack.callback(_empty, fd, name)
                os.chmod(name, _MODES[kind], dir_fd=fd)
                if self.uid is not None:
                    os.chown(name, self.uid, self.uid, dir_fd=fd)
            yield {target: f"{self.place}/{kind}/{name}" for kind, target in SCRATCH.items()}

    def close(self) -> None:
        for fd in (self.namespace, self.user_namespace, *self.file_systems.values()):
            if fd >= 0:
                os.close(fd)
        self.namespace = self.user_namespace = -1
        self.file_systems = {}


def make(sources: Iterable[Path], uid: int | None, quota: Quota | None = None) -> View:
    """A view of directories for `uid` (None: the service's own, which sees what the service sees). With `quota`, the
    view has its file systems below `place`, which go when the view and its last sandbox are gone."""
    view = View(uid)
    if uid is None:
        if quota is not None:
            _mount_as_plain_user(view, _place(sources), quota)
        return view
    paths = [source.resolve() for source in sources]
    for path in paths:
        # Made under umask 077, a folder can be mounted but not read: two levels tell.
        if any(not folder.stat().st_mode & 0o001 for folder in (path, *path.iterdir()) if folder.is_dir()):
            raise IsolationMissing(f"a sandbox of another uid can't read {path}; as root: chmod -R a+rX {path}")
    hidden = [path for path in paths if not walkable(path)]
    if not hidden and quota is None:
        return view
    place = _place(paths)
    names = {path: f"{number}/{path.name}" for number, path in enumerate(hidden)}
    # Libraries lie beside a program (`../../name.libs`): siblings of one directory stay siblings.
    for path in hidden:
        for number, other in enumerate(hidden):
            if other.parent == path.parent:
                names[path] = f"{number}/{path.name}"
                break
    _mount(view, place, {names[path]: path for path in hidden}, quota)
    view.seen = {path: f"{place}/{name}" for path, name in names.items()}
    return view


def _mount(view: View, place: str, names: Mapping[str, Path], quota: Quota | None) -> None:
    """As root, in a thread: a mount namespace belongs to a thread, and this one ends with its own."""
    failed: list[OSError] = []

    def work() -> None:
        try:
            _call("unshare", _CLONE_NEWNS)
            _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
            _tmpfs(place, "mode=0755,size=1m")
            for name, source in names.items():
                target = Path(place, name)
                target.mkdir(parents=True)
                target.parent.chmod(0o755)
                _call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND, None)
            view.place = place
            if quota is not None:
                view.file_systems = _quota(place, quota, view.uid or 0)
            view.namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            failed.append(e)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    if failed and not names:
        raise IsolationMissing(
            f"file systems of limited size can't be mounted by this root ({failed[0]}): "
            f"give it CAP_SYS_ADMIN, or run as a plain user"
        )
    if failed:
        example = next(iter(names.values()))
        raise IsolationMissing(
            f"a sandbox of another uid can't reach {example}, and this root may not mount ({failed[0]}): "
            f"let everybody walk to it (chmod o+x on its parents), move it, or run as a plain user"
        )


def _empty(fd: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError:  # a stranger left files
        remove(Path(f"/proc/{os.getpid()}/fd/{fd}", name))


def _quota(place: str, quota: Quota, uid: int) -> dict[str, int]:
    for name, options in quota.file_systems.items():
        Path(place, name).mkdir()
        _tmpfs(f"{place}/{name}", f"{options},uid={uid},gid={uid}")
    for name in ("upper", "work") if quota.size is not None else ():
        folder = Path(place, "quota", name)
        folder.mkdir()
        folder.chmod(0o755)
        os.chown(folder, uid, uid)
    return _opened(Path(place), quota)


def _opened(place: Path, quota: Quota) -> dict[str, int]:
    return {name: os.open(place / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for name in quota.file_systems}


def _tmpfs(target: str, options: str) -> None:
    _call("mount", b"devstral-fix", target.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount_as_plain_user(view: View, place: str, quota: Quota) -> None:
    """In a user namespace, which only a process of one thread can make."""
    words = [word for pair in quota.file_systems.items() for word in pair]
    with subprocess.Popen(
        [
            *(_tool("unshare"), "--user", "--map-root-user", "--mount", "--propagation", "private"),
            *("/bin/sh", "-c", _SCRIPT, "sh", place, *words),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": _TOOL_PATH, "LC_ALL": "C"},
        cwd="/",
        umask=0o022,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() == b"ready\n":
            held = f"/proc/{process.pid}"
            view.place = place
            view.namespace = os.open(f"{held}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            view.user_namespace = os.open(f"{held}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            view.file_systems = _opened(Path(f"{held}/root{place}"), quota)
            return
        reason = process.stderr.read().decode("utf-8", "replace").strip()
    raise IsolationMissing(f"file systems of limited size can't be mounted here ({reason})")


def walkable(path: Path) -> bool:
    """Whether everybody may walk to `path`; what it grants itself is another question."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


def _place(paths: Iterable[Path]) -> str:
    """A directory to mount over, which holds none of `paths`."""
    kept = list(paths)
    place = next((name for name in _PLACES if _free(Path(name), kept)), None)
    if place is None:
        raise IsolationMissing(f"{kept[0]} can't be shown to a sandbox: no free directory of {_PLACES}")
    return place


def _free(place: Path, paths: Iterable[Path]) -> bool:
    return place.is_dir() and not place.is_symlink() and not any(p.is_relative_to(place) for p in paths)


def _tool(name: str) -> str:
    found = shutil.which(name, path=_TOOL_PATH)
    if found is None:
        raise SandboxUnavailable(f"`{name}` (util-linux) is missing")
    return found
