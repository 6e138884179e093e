"""Where this process may make control groups: read from the machine's mounts, and tried."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from worker.adapters.sandbox.cgroup import CONTROLLERS, JOIN, NAME, Group, Groups, write
from worker.errors import IsolationMissing

_MOVES = 5  # tries to empty a group whose members may fork meanwhile


def find(below: str | None = None, *, mounts: str | None = None, own: str | None = None) -> Groups:
    """Where this process may make groups: `below` (a path that every hierarchy has, such as one delegated to a user),
    else as root the top of the hierarchies, else its own group. `mounts` and `own` are the texts of /proc/self/mounts
    and /proc/self/cgroup. IsolationMissing names what can't be limited, and the command that mends it."""
    mounts = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    own = Path("/proc/self/cgroup").read_text() if own is None else own
    tops, unified = _tops(mounts)
    paths = _own_paths(own)
    name = NAME if below is None else below.strip("/")
    root = os.geteuid() == 0
    ours = below is None

    def place(key: str, top: Path) -> Path:
        if below is not None or root:
            return top / name
        return top / paths.get(key, "/").strip("/") / NAME

    if unified is not None and set(CONTROLLERS) <= _words(unified / "cgroup.controllers"):
        base = place("unified", unified)
        return _try(Group(2, dict.fromkeys((*CONTROLLERS, "unified"), base), "unified"), ours)
    missing = [key for key in CONTROLLERS if key not in tops]
    if missing:
        raise IsolationMissing(
            f"no control group limits {', '.join(missing)} here; as root: "
            f"mkdir -p /sys/fs/cgroup/{missing[0]} && mount -t cgroup -o {missing[0]} none /sys/fs/cgroup/{missing[0]}"
        )
    folders = {key: place(key, tops[key]) for key in CONTROLLERS}
    # To join a group of v2 waits for every processor of the machine (13 to 26 ms measured), a thread's way into v1
    # does not; so where both are mounted the freezer ends what runs.
    if "freezer" in tops:
        return _try(Group(1, {**folders, "freezer": place("freezer", tops["freezer"])}, "freezer"), ours)
    if unified is not None:
        return _try(Group(1, {**folders, "unified": place("unified", unified)}, "unified"), ours)
    raise IsolationMissing(
        "no control group can be killed here; as root: "
        "mkdir -p /sys/fs/cgroup/freezer && mount -t cgroup -o freezer none /sys/fs/cgroup/freezer"
    )


def _try(base: Group, ours: bool) -> Groups:
    """Make the base where it is `ours`, then a group with every limit in it, as a session would."""
    where = " ".join(str(folder) for folder in dict.fromkeys(base.folders.values()))
    made = f"as root: mkdir -p {where} && chown -R {os.geteuid()} {where}"
    if not ours and (lacking := [str(folder) for folder in base.folders.values() if not folder.is_dir()]):
        raise IsolationMissing(f"DEVSTRAL_FIX_CGROUP: there is no control group {lacking[0]}; {made}")
    try:
        if base.version == 2:
            _hand_down(base.folders["memory"])
        if ours:
            for folder in dict.fromkeys(base.folders.values()):
                folder.mkdir(exist_ok=True)
        groups = Groups(base, ours=ours)
        trial = groups.make()
        try:
            trial.limit_memory(64 << 20)
            trial.limit_processes(8)
            trial.limit_cpus(0.5)
            # Where a process may make groups of v2 it may still not move into them from where it is.
            words = ["/bin/sh", "-c", JOIN, "sh", *map(str, trial.procs), "--", "true"]
            if subprocess.run(words, stderr=subprocess.DEVNULL, timeout=20, check=False, env={}).returncode != 0:
                raise PermissionError(f"no process may move from here into {trial.folders[trial.ender].parent}")
            if trial.ender == "unified" and not (trial.folders["unified"] / "cgroup.kill").exists():
                raise IsolationMissing("control groups of this kernel can't be killed: Linux 5.14 is needed, or v1")
        finally:
            trial.remove()
    except OSError as e:
        mend = made if base.version == 1 else "without root: systemd-run --user --scope -p Delegate=yes COMMAND"
        raise IsolationMissing(f"control groups can't be made here ({e}); {mend}") from e
    return groups


def _hand_down(base: Path) -> None:
    """Let a v2 parent give its controllers to `base`. A group with members can't: they move into a leaf first, ours and
    those beside it (a container's init, whoever started us), as its owner may."""
    switch = base.parent / "cgroup.subtree_control"
    wanted = " ".join(f"+{name}" for name in CONTROLLERS)
    if set(CONTROLLERS) <= _words(switch):
        return
    for left in reversed(range(_MOVES)):
        try:
            write(switch, wanted)
        except OSError as e:
            if e.errno != errno.EBUSY or not left:
                raise
            leaf = base.parent / "service"
            leaf.mkdir(exist_ok=True)
            for pid in sorted(_words(base.parent / "cgroup.procs") - {"0"}):  # 0: of another pid namespace
                with suppress(ProcessLookupError):
                    write(leaf / "cgroup.procs", pid)
        else:
            return


def _tops(mounts: str) -> tuple[dict[str, Path], Path | None]:
    """The mount point of each v1 controller, and of v2."""
    tops: dict[str, Path] = {}
    unified = None
    for fields in map(str.split, mounts.splitlines()):
        if fields[2] == "cgroup2":
            unified = Path(fields[1])
        elif fields[2] == "cgroup":
            for option in fields[3].split(","):
                tops.setdefault(option, Path(fields[1]))
    return tops, unified


def _own_paths(own: str) -> dict[str, str]:
    paths: dict[str, str] = {}
    for line in own.splitlines():
        number, controllers, path = line.split(":", 2)
        for name in controllers.split(",") if number != "0" else ["unified"]:
            paths[name] = path
    return paths


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()
