"""A worker process of each role: its use cases, the queues it serves, and what it has room for.

Credentials follow the role: only `default` opens the forge, only `gpu` opens a model, and neither `gpu` nor `cpu` holds
anything of GitHub's: they read the mirrors that `default` keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Literal

from agent.protocols import Model
from agent.tokens import TokenCounter
from worker import compose, descendants, queue, readiness, wakes
from worker.adapters.engine.hosted import Hosted
from worker.adapters.models.history import open_history
from worker.engine_clock import EngineClock
from worker.gated_sandbox import GatedSandbox
from worker.gates import Admission, CommandGate, TokenGate
from worker.heartbeat import Heartbeat, owner_name
from worker.observe.exposition import exposed
from worker.observe.load import EngineLoads, GateLoads
from worker.paced import Paced
from worker.periodic import Periodic
from worker.presence import Presence
from worker.process import Duty, Process, Runtime, UseCases, closes
from worker.prune import PruneRows, PruneRunDirs
from worker.queue import Publisher
from worker.runs.tries import Cascade
from worker.settings import Settings
from worker.shutdown import Shutdown
from worker.stages.baselines import KeptBaselines
from worker.stages.deliver import Deliver
from worker.stages.intake import Intake
from worker.stages.labels import StateLabels
from worker.stages.notify import Notify
from worker.stages.pursue import Pursue
from worker.stages.reconcile import Reconcile
from worker.stages.setup import Builder, SetUp
from worker.stages.telling import Tell
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store.pg_notify import Listener
from worker.store.session import Store
from worker.sweep import Sweep

Role = Literal["default", "cpu", "gpu"]
PRUNE_SECONDS = 3600.0
STAND_IN_PERIODS = 3


def _default(process: Process) -> Duty:
    settings = process.settings
    forges = compose.make_forges(settings, process.watch)
    labels = StateLabels(prefix=settings.trigger_label, on=settings.state_labels)
    sweep = Sweep(
        store=process.store,
        send=process.send,
        repository_slots=settings.repository_slots,
        days=compose.day_limits(settings),
        quarantine_hours=settings.quarantine_hours,
        caps=compose.caps(settings),
        watch=process.watch,
    )
    reconcile = Reconcile(store=process.store, forges=forges, send=process.send, label=settings.trigger_label)
    use_cases: UseCases = {
        wakes.INTAKE: Intake(
            store=process.store,
            heartbeat=process.heartbeat,
            forges=forges,
            repositories=process.repositories,
            send=process.send,
            profile=settings.profile,
            max_attempts=settings.max_attempts,
            labels=labels,
            watch=process.watch,
        ),
        wakes.DELIVER: Deliver(
            store=process.store,
            heartbeat=process.heartbeat,
            forges=forges,
            repositories=process.repositories,
            lease_seconds=settings.lease_seconds,
            check_runs=settings.check_runs,
            author=settings.commit_author,
            labels=labels,
            caps=compose.caps(settings),
            watch=process.watch,
        ),
        wakes.TELL: Tell(store=process.store, forges=forges, labels=labels),
        wakes.NOTIFY: Notify(store=process.store, notifier=compose.make_notifier(settings, process.stack)),
        wakes.SWEEP: Paced(sweep, settings.sweep_seconds / 2),
        wakes.RECONCILE: Paced(reconcile, settings.reconcile_seconds / 2),
    }
    # Beat may die, and Redis may lose its message: recovery then takes a few of its periods, not for ever.
    stand_in = Periodic("sweep", sweep, seconds=STAND_IN_PERIODS * settings.sweep_seconds)
    process.stack.callback(stand_in.close)
    process.stack.callback(Periodic("prune_rows", PruneRows.by(settings, process.store), seconds=PRUNE_SECONDS).close)
    return Duty(use_cases=use_cases, greet=(wakes.intake(),))


def _sandbox(process: Process) -> tuple[GatedSandbox, CommandGate]:
    commands = CommandGate(process.settings.command_slots or len(os.sched_getaffinity(0)))
    inner = compose.make_sandbox(process.settings, process.settings.data_dir, process.repositories)
    return GatedSandbox(inner, commands, process.watch), commands


def _gpu(process: Process) -> Duty:
    settings = process.settings
    sandbox, commands = _sandbox(process)
    counter = TokenCounter(settings.tekken_file)
    open_history(counter, "", ())  # read now: it takes seconds, and a run's wall time is for its own work
    # An engine is up when this returns, so no permit is taken before; without it the worker has to be started anew.
    model = compose.make_model(settings, counter, on_death=process.shutdown.fail, watch=process.watch)
    process.stack.callback(model.close)
    process.presence.opened(model.label)
    process.heartbeat.only_while(lambda: model.alive)
    if isinstance(model, Hosted):
        _account(process, model)
    solver = compose.make_solver(settings, sandbox, process.repositories, model)
    tokens = _admission(process, model)
    pursue = Pursue(
        store=process.store,
        heartbeat=process.heartbeat,
        solver=solver,
        repositories=process.repositories,
        layers=compose.make_layers(settings),
        send=process.send,
        profile=settings.profile,
        lease_seconds=settings.lease_seconds,
        stopping=process.shutdown.begun,
        admission=tokens,
        gates=(commands, process.presence),
        repository_slots=settings.repository_slots,
        repository_turn=settings.repository_turn,
        days=compose.day_limits(settings),
        samples=compose.samples(settings),
        watch=process.watch,
    )
    return Duty(
        use_cases={wakes.PURSUE: pursue},
        gates=(tokens, commands),
        greet=(wakes.permit(settings.profile),),
    )


def _account(process: Process, model: Hosted) -> None:
    """The engine's time into the store, with each beat and at the end; what it does now, to whoever asks."""

    def times() -> tuple[float, float]:
        load = model.engine.load()
        return load.busy_seconds, load.idle_seconds

    gpus = model.engine.facts.gpus
    clock = EngineClock(process.store, owner_name(), profile=process.settings.profile, gpus=gpus, times=times)
    process.heartbeat.also(clock)
    process.stack.callback(clock.close)
    process.watch.metrics.registry.register(EngineLoads(model.engine.load))


def _admission(process: Process, model: Model) -> Admission:
    """The engine's own, where there is one in this process; else the setting says what a server's memory holds."""
    if isinstance(model, Hosted) and model.admission is not None:
        return model.admission
    settings = process.settings
    return TokenGate(lambda: settings.kv_tokens, expected=settings.context_tokens, waited=process.watch.admitted)


def _cpu(process: Process) -> Duty:
    settings = process.settings
    sandbox, commands = _sandbox(process)
    repositories, layers = process.repositories, compose.make_layers(settings)
    use_cases: UseCases = {
        wakes.VERIFY: Verify(
            store=process.store,
            heartbeat=process.heartbeat,
            verifier=Verifier(sandbox=sandbox, repositories=repositories, baselines=KeptBaselines(store=process.store)),
            repositories=repositories,
            layers=layers,
            send=process.send,
            lease_seconds=settings.lease_seconds,
            cascade=Cascade(settings.cascade),
            watch=process.watch,
        ),
        wakes.SETUP: SetUp(
            store=process.store,
            heartbeat=process.heartbeat,
            builder=Builder(
                sandbox=sandbox, repositories=repositories, layers=layers, egress=compose.make_egress(settings)
            ),
            repositories=repositories,
            send=process.send,
        ),
    }
    return Duty(use_cases=use_cases, gates=(commands,))


DUTIES: dict[Role, Callable[[Process], Duty]] = {"default": _default, "gpu": _gpu, "cpu": _cpu}


def _place(settings: Settings, role: Role) -> tuple[tuple[str, ...], int]:
    """The queues that a role serves, and how many messages at once."""
    if role == "gpu":
        return (wakes.gpu_queue(settings.profile),), settings.trajectories
    return ((wakes.CPU,), settings.cpu_slots) if role == "cpu" else ((wakes.DEFAULT,), 4)


@contextmanager
def worker(settings: Settings, role: Role) -> Iterator[Runtime]:
    """Build a worker process of one role, and take it apart at the end. From the main thread; until messages are taken,
    SIGTERM and SIGINT end the process at once."""
    with ExitStack() as stack:
        stack.callback(descendants.end)  # of an engine that did not start, or did not end
        store = Store(settings.need("database_url"))
        stack.callback(store.close)
        watch = compose.make_watch(settings, role)
        stack.callback(watch.tracing.close)
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
        # The key is the `default` worker's alone: only there are commits made.
        key = compose.signing_key(settings) if role == "default" else None
        repositories = compose.make_repositories(settings.data_dir, signing_key=key)
        tidy = PruneRunDirs(store=store, repositories=repositories)
        stack.callback(Periodic("prune_run_directories", tidy, seconds=PRUNE_SECONDS).close)
        queues, slots = _place(settings, role)
        shutdown.while_starting()
        presence = Presence(
            store,
            owner_name(),
            role=role,
            queues=queues,
            profile=settings.profile,
            slots=slots,
            isolation=settings.isolation.value,
            version=version("devstral-fix"),
            lease_seconds=settings.lease_seconds,
            idle=lambda: not heartbeat.held(),
            end=shutdown.drained,
        )
        shutdown.last_words(presence.close)
        stack.push(closes(presence, shutdown))
        heartbeat.also(presence.touch)
        presence.touch()  # it may have taken over what was asked of another
        duty = DUTIES[role](
            Process(
                settings=settings,
                store=store,
                send=publisher.send,
                heartbeat=heartbeat,
                shutdown=shutdown,
                repositories=repositories,
                watch=watch,
                presence=presence,
                stack=stack,
            )
        )
        watch.metrics.registry.register(GateLoads(duty.gates))
        stack.enter_context(exposed(watch.metrics.registry, settings.metrics_listen))
        presence.ready()
        readiness.ready()
        yield Runtime(
            app=app,
            use_cases=duty.use_cases,
            queues=queues,
            slots=slots,
            doors=(presence, shutdown),
            gates=duty.gates,
            greet=duty.greet,
            send=publisher.send,
            shutdown=shutdown,
        )
