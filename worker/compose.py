"""Composition roots: one per process. Here, and nowhere else, ports meet adapters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from celery import Celery

from agent.protocols import Isolation, Model, Sandbox
from agent.tokens import TokenCounter
from worker import queue, wakes
from worker.adapters.egress import BadHost, HostPattern, Policy, ProxyEgress
from worker.adapters.forge import ClientOptions, GitHubForges
from worker.adapters.layers import DiskLayers
from worker.adapters.models import open_model
from worker.adapters.repos import GitRepositories
from worker.adapters.sandbox import BwrapSandbox, ContainerSandbox
from worker.errors import SettingsError
from worker.heartbeat import Heartbeat
from worker.paced import Paced
from worker.queue import Publisher
from worker.settings import EXAMPLES, PREFIX, SandboxBackend, Settings
from worker.stages.attempt import Solver
from worker.stages.deliver import Deliver
from worker.stages.intake import Intake
from worker.stages.pursue import Pursue
from worker.stages.setup import Builder, SetUp
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store.session import Store
from worker.sweep import Sweep

Role = Literal["default", "cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a worker process of one role executes; `stopping` is set when it was asked to stop."""

    app: Celery
    use_cases: dict[str, Callable[..., None]]
    queues: tuple[str, ...]
    slots: int
    stopping: threading.Event


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


def make_sandbox(
    data_dir: Path,
    isolation: Isolation,
    repositories: GitRepositories,
    *,
    backend: SandboxBackend = "bwrap",
    image: str | None = None,
    cgroup: str | None = None,
) -> Sandbox:
    if backend == "bwrap":
        return BwrapSandbox(data_dir / "workspaces", isolation=isolation, objects=repositories, cgroup=cgroup)
    runtime = "runsc" if backend == "runsc" else None
    return ContainerSandbox(
        data_dir / "containers", isolation=isolation, objects=repositories, runtime=runtime, image=image
    )


def make_repositories(data_dir: Path, *, allow_file: bool = False) -> GitRepositories:
    return GitRepositories(data_dir / "repositories", allow_file=allow_file)


def make_layers(settings: Settings, data_dir: Path | None = None) -> DiskLayers:
    return DiskLayers((data_dir or settings.data_dir) / "setups", retry_seconds=settings.setup_retry_seconds)


def make_egress(settings: Settings) -> ProxyEgress:
    """SettingsError names the setting with an entry that is no host."""
    patterns = {}
    for field in ("egress_hosts", "egress_private_hosts"):
        try:
            patterns[field] = tuple(map(HostPattern.parse, getattr(settings, field)))
        except BadHost as error:
            raise SettingsError(f"{PREFIX}{field.upper()}: {error}. Example: {EXAMPLES[field.upper()]}") from error
    policy = Policy(hosts=patterns["egress_hosts"], private=patterns["egress_private_hosts"])
    return ProxyEgress(settings.data_dir.absolute() / "egress", policy)


def make_solver(settings: Settings, sandbox: Sandbox, repositories: GitRepositories) -> Solver:
    return Solver(
        model=make_model(settings),
        sandbox=sandbox,
        repositories=repositories,
        limits=settings.limits,
        price=settings.prices,
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
        publisher = Publisher(app)
        stack.callback(publisher.close)
        heartbeat = Heartbeat(store, seconds=settings.lease_seconds)
        stack.callback(heartbeat.close)
        repositories = make_repositories(settings.data_dir)
        stopping = threading.Event()
        lease = settings.lease_seconds
        send = publisher.send
        use_cases: dict[str, Callable[..., None]]
        if role == "default":
            forges = make_forges(settings)
            use_cases = {
                wakes.INTAKE: Intake(
                    store=store,
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
                ),
                wakes.SWEEP: Paced(Sweep(store=store, send=send), settings.sweep_seconds / 2),
            }
            queues, slots = (wakes.DEFAULT,), 4
        else:
            layers = make_layers(settings)
            sandbox = make_sandbox(
                settings.data_dir,
                settings.isolation,
                repositories,
                backend=settings.sandbox,
                image=settings.sandbox_image,
                cgroup=settings.cgroup,
            )
            if role == "gpu":
                use_cases = {
                    wakes.PURSUE: Pursue(
                        store=store,
                        heartbeat=heartbeat,
                        solver=make_solver(settings, sandbox, repositories),
                        repositories=repositories,
                        layers=layers,
                        send=send,
                        profile=settings.profile,
                        lease_seconds=lease,
                        stopping=stopping,
                    )
                }
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
                        builder=Builder(
                            sandbox=sandbox, repositories=repositories, layers=layers, egress=make_egress(settings)
                        ),
                        repositories=repositories,
                        send=send,
                    ),
                }
                queues, slots = (wakes.CPU,), settings.cpu_slots
        yield Runtime(app=app, use_cases=use_cases, queues=queues, slots=slots, stopping=stopping)
