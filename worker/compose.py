"""Composition roots: one per process. Here, and nowhere else, ports meet adapters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from celery import Celery

from agent.protocols import Model, Sandbox
from agent.tokens import TokenCounter
from worker import queue, wakes
from worker.adapters.egress import BadHost, HostPattern, Policy, ProxyEgress, ask
from worker.adapters.forge import ClientOptions, GitHubForges
from worker.adapters.layers import DiskLayers
from worker.adapters.models import open_model
from worker.adapters.repos import GitRepositories
from worker.adapters.sandbox import BadTool, BwrapSandbox, ContainerSandbox, ToolSandbox
from worker.errors import SettingsError
from worker.gated_sandbox import GatedSandbox
from worker.gates import CommandGate, Gate, TokenGate
from worker.heartbeat import Heartbeat, owner_name
from worker.paced import Paced
from worker.periodic import Periodic
from worker.presence import Presence
from worker.prune import PruneRows, PruneRunDirs
from worker.queue import Publisher
from worker.runs.budgets import DayLimits
from worker.settings import EXAMPLES, PREFIX, Settings
from worker.shutdown import Shutdown
from worker.stages.attempt import Solver
from worker.stages.deliver import Deliver
from worker.stages.intake import Intake
from worker.stages.pursue import Pursue
from worker.stages.setup import Builder, SetUp
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store.notices import Listener
from worker.store.session import Store
from worker.sweep import Sweep

Role = Literal["default", "cpu", "gpu"]

PRUNE_SECONDS = 3600.0
STAND_IN_PERIODS = 3


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a worker process of one role executes, when it takes messages, and how it ends."""

    app: Celery
    send: Callable[[wakes.Wake], None]
    use_cases: dict[str, Callable[..., None]]
    queues: tuple[str, ...]
    slots: int
    doors: tuple[Gate, ...]  #: closed for good or for a time: what is asked for then is for other workers
    gates: tuple[Gate, ...]  #: what runs out: room for trajectories, room for commands
    greet: tuple[wakes.Wake, ...]  #: what it sends when messages begin to arrive: others may have been lost before
    shutdown: Shutdown


def make_model(settings: Settings) -> Model:
    return open_model(
        settings.need("model"),
        counter=TokenCounter(settings.tekken_file),
        allow_remote=settings.allow_remote_models,
        api_key=settings.model_api_key,
    )


def make_forges(settings: Settings) -> GitHubForges:
    """GitHub as the App when one is configured, else with a personal token."""
    options = ClientOptions(api_url=settings.github_url, git_base_url=settings.git_base_url)
    if settings.github_app_id is not None:
        return GitHubForges.for_app(settings.github_app_id, Path(settings.need("github_app_key_file")), options)
    if settings.github_token is not None:
        return GitHubForges.for_token(settings.github_token, options)
    settings.need("github_app_id")
    raise AssertionError("need() raises for an unset field")


def make_sandbox(settings: Settings, data_dir: Path, repositories: GitRepositories) -> Sandbox:
    """What the settings ask for, its sessions below `data_dir`. SettingsError names a tool that can't be shown."""
    sandbox = _backend(settings, data_dir, repositories)
    if not settings.tools:
        return sandbox
    try:
        return ToolSandbox(sandbox, settings.tools, never=(Path.home(), settings.data_dir, data_dir))
    except BadTool as error:
        raise SettingsError(f"{PREFIX}TOOLS: {error}. Example: {PREFIX}TOOLS={EXAMPLES['TOOLS']}") from error


def _backend(settings: Settings, data_dir: Path, repositories: GitRepositories) -> Sandbox:
    isolation, backend, image = settings.isolation, settings.sandbox, settings.sandbox_image
    if backend == "bwrap":
        return BwrapSandbox(data_dir / "workspaces", isolation=isolation, objects=repositories, cgroup=settings.cgroup)
    runtime = "runsc" if backend == "runsc" else None
    return ContainerSandbox(
        data_dir / "containers", isolation=isolation, objects=repositories, runtime=runtime, image=image
    )


def make_repositories(data_dir: Path, *, allow_file: bool = False) -> GitRepositories:
    return GitRepositories(data_dir / "repositories", allow_file=allow_file)


def make_layers(settings: Settings, data_dir: Path | None = None) -> DiskLayers:
    return DiskLayers(
        (data_dir or settings.data_dir) / "setups",
        retry_seconds=settings.setup_retry_seconds,
        machine=[str(folder.resolve()) for folder in settings.tools],
    )


def make_egress(settings: Settings) -> ProxyEgress:
    """SettingsError names the setting with an entry that is no host."""
    patterns = {}
    for field in ("egress_hosts", "egress_private_hosts"):
        try:
            patterns[field] = tuple(map(HostPattern.parse, getattr(settings, field)))
        except BadHost as error:
            raise SettingsError(f"{PREFIX}{field.upper()}: {error}. Example: {EXAMPLES[field.upper()]}") from error
    programs = [
        *(str(path) for folder in settings.tools for path in (folder / "bin", folder)),
        os.environ.get("PATH", ""),
    ]
    environment = {**os.environ, "PATH": os.pathsep.join(programs)}  # the clients that a set-up will run are asked
    policy = Policy(hosts=patterns["egress_hosts"], private=patterns["egress_private_hosts"])
    return ProxyEgress(settings.data_dir.absolute() / "egress", policy, lambda: ask(environment))


def make_solver(settings: Settings, sandbox: Sandbox, repositories: GitRepositories) -> Solver:
    return Solver(
        model=make_model(settings),
        sandbox=sandbox,
        repositories=repositories,
        limits=settings.limits,
        price=settings.prices,
    )


def day_limits(settings: Settings) -> DayLimits:
    return DayLimits(
        repository=settings.budget_repository_usd_per_day,
        installation=settings.budget_installation_usd_per_day,
        everything=settings.budget_global_usd_per_day,
    )


@contextmanager
def worker(settings: Settings, role: Role) -> Iterator[Runtime]:
    """Build a worker process of one role, and take it apart at the end.

    Credentials follow the role: only `default` opens the forge, only `gpu` opens a model, and neither `gpu` nor
    `cpu` holds anything of GitHub's: they read the mirrors that `default` keeps.
    """
    with ExitStack() as stack:
        store = Store(settings.need("database_url"))
        stack.callback(store.close)
        app = queue.make_app(
            settings.need("redis_url"),
            sweep_seconds=settings.sweep_seconds,
            visibility_seconds=settings.visibility_seconds,
        )
        publisher = Publisher(app, pause=queue.SHORT_PAUSE)
        stack.callback(publisher.close)
        heartbeat = Heartbeat(store, seconds=settings.lease_seconds)
        stack.callback(heartbeat.close)
        listener = Listener(store, heartbeat.look)
        stack.callback(listener.close)
        shutdown = Shutdown(store, heartbeat, grace=settings.shutdown_grace_seconds)
        stopping = shutdown.begun
        repositories = make_repositories(settings.data_dir)
        lease = settings.lease_seconds
        send = publisher.send
        gates: tuple[Gate, ...] = ()
        greet: tuple[wakes.Wake, ...] = ()
        tidy = PruneRunDirs(store=store, repositories=repositories)
        stack.callback(Periodic("prune_run_directories", tidy, seconds=PRUNE_SECONDS).close)
        use_cases: dict[str, Callable[..., None]]
        if role == "default":
            forges = make_forges(settings)
            sweep = Sweep(
                store=store,
                send=send,
                repository_slots=settings.repository_slots,
                days=day_limits(settings),
                quarantine_hours=settings.quarantine_hours,
            )
            use_cases = {
                wakes.INTAKE: Intake(
                    store=store,
                    heartbeat=heartbeat,
                    forges=forges,
                    repositories=repositories,
                    send=send,
                    profile=settings.profile,
                    max_attempts=settings.max_attempts,
                ),
                wakes.DELIVER: Deliver(
                    store=store,
                    heartbeat=heartbeat,
                    forges=forges,
                    repositories=repositories,
                    lease_seconds=lease,
                    check_runs=settings.check_runs,
                ),
                wakes.SWEEP: Paced(sweep, settings.sweep_seconds / 2),
            }
            # Beat may die, and Redis may lose its message: recovery then takes a few of its periods, not for ever.
            stack.callback(Periodic("sweep", sweep, seconds=STAND_IN_PERIODS * settings.sweep_seconds).close)
            stack.callback(Periodic("prune_rows", PruneRows.by(settings, store), seconds=PRUNE_SECONDS).close)
            greet = (wakes.intake(),)
            queues, slots = (wakes.DEFAULT,), 4
        else:
            layers = make_layers(settings)
            commands = CommandGate(settings.command_slots or len(os.sched_getaffinity(0)))
            sandbox = GatedSandbox(make_sandbox(settings, settings.data_dir, repositories), commands)
            gates = (commands,)
            if role == "gpu":
                # The setting holds until an engine in this process knows better.
                tokens = TokenGate(lambda: settings.kv_tokens, expected=settings.context_tokens)
                gates = (tokens, commands)
                solver = make_solver(settings, sandbox, repositories)
                heartbeat.only_while(lambda: solver.model.alive)
                use_cases = {
                    wakes.PURSUE: Pursue(
                        store=store,
                        heartbeat=heartbeat,
                        solver=solver,
                        repositories=repositories,
                        layers=layers,
                        send=send,
                        profile=settings.profile,
                        lease_seconds=lease,
                        stopping=stopping,
                        admission=tokens,
                        gates=(commands,),
                        repository_slots=settings.repository_slots,
                        days=day_limits(settings),
                    )
                }
                greet = (wakes.permit(settings.profile),)
                queues, slots = (wakes.gpu_queue(settings.profile),), settings.gpu_slots
            else:
                use_cases = {
                    wakes.VERIFY: Verify(
                        store=store,
                        heartbeat=heartbeat,
                        verifier=Verifier(sandbox=sandbox, repositories=repositories),
                        repositories=repositories,
                        layers=layers,
                        send=send,
                        lease_seconds=lease,
                    ),
                    wakes.SETUP: SetUp(
                        store=store,
                        heartbeat=heartbeat,
                        builder=Builder(
                            sandbox=sandbox, repositories=repositories, layers=layers, egress=make_egress(settings)
                        ),
                        repositories=repositories,
                        send=send,
                    ),
                }
                queues, slots = (wakes.CPU,), settings.cpu_slots
        presence = Presence(
            store,
            owner_name(),
            role=role,
            queues=queues,
            profile=settings.profile,
            slots=slots,
            isolation=settings.isolation.value,
            version=version("devstral-fix"),
            lease_seconds=lease,
        )
        stack.callback(presence.close)
        heartbeat.also(presence.touch)
        yield Runtime(
            app=app,
            use_cases=use_cases,
            queues=queues,
            slots=slots,
            doors=(presence, shutdown),
            gates=gates,
            greet=greet,
            send=send,
            shutdown=shutdown,
        )
