"""`devstral-fix workers`, `drain`, `pause`, `resume`: look at the service's processes, and hold them back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from worker import terminal
from worker.commands.base import (
    AS_JSON,
    BY,
    Duration,
    NotDone,
    Profile,
    Repository,
    brief,
    in_transaction,
    located,
    send,
    show_done,
    show_list,
)

POLL_SECONDS = 1.0

REPOSITORY = click.option(
    "--repository", type=Repository(), metavar="OWNER/REPO", help="Only this one. Default: everything."
)


@click.group(epilog="Example: devstral-fix workers list")
def workers() -> None:
    """Look at worker processes."""


@workers.command("list", epilog="Example: devstral-fix workers list --json | jq '.[] | select(.state == \"lost\")'")
@click.option("--all", "every", is_flag=True, help="Those that stopped, too.")
@AS_JSON
def list_workers(*, every: bool, as_json: bool) -> None:
    """The worker processes: what each serves and holds, when it was last seen, and why one failed."""
    from worker.runs import workforce

    def read(session: Any) -> Any:
        return workforce.seen(session, every=every), workforce.waiting_in_vain(session)

    def row(seen: workforce.Seen) -> list[str]:
        ages = f"{seen.age_seconds:.0f} s", f"{seen.seen_seconds_ago:.0f} s ago"
        about = ",".join(seen.queues), seen.isolation, seen.version, *ages, " ".join(map(str, seen.holds)) or "nothing"
        return [seen.name, seen.role, _state(seen), str(seen.slots), seen.model or "", *about]

    found, in_vain = in_transaction(read)
    for words in in_vain:
        terminal.line(words, err=True)
    show_list(
        json.loads(json.dumps([asdict(seen) for seen in found], default=str)),
        ["worker", "role", "state", "slots", "model", "queues", "isolation", "version", "up", "seen", "holds"],
        [row(seen) for seen in found],
        none="no worker ever started here" if every else "no worker is there",
        as_json=as_json,
    )


def _state(seen: Any) -> str:
    """With what people asked for, or why it failed."""
    if seen.failure is not None:
        return f"{seen.state} ({brief(seen.failure)})"
    if seen.drain_requested_by is None:
        return str(seen.state)
    left = seen.drain_seconds_left
    limit = "" if left is None else f", hands back {'now' if left == 0 else f'in {left:.0f} s'}"
    then = "" if seen.drain_then in {None, "stay"} else f", then: {seen.drain_then}"
    return f"{seen.state} (asked by {seen.drain_requested_by}{limit}{then})"


@click.command(epilog="Example: devstral-fix drain --profile small-24b --within 30m --then restart --wait")
@click.argument("worker", required=False)
@click.option("--profile", type=Profile(), default=None, help="All gpu workers of this profile, in place of WORKER.")
@click.option("--all", "every", is_flag=True, help="Every worker whose name begins so, such as all of a host.")
@click.option(
    "--within",
    type=Duration(),
    default=None,
    help="So long after the first request, such as 90s, 30m or 2h, runs are handed back at the end of their step, with"
    " no attempt counted. Default: they may take their time.",
)
@click.option(
    "--then",
    type=click.Choice(["stay", "stop", "restart"]),
    default="stay",
    show_default=True,
    help="Once it holds nothing: idle, end with status 0 and stay so (under `up`), or end with status 1 for its"
    " supervisor to start it with the settings and weights of then.",
)
@click.option("--wait", is_flag=True, help="Return when they hold nothing (stay), or have ended.")
@click.option("--undo", is_flag=True, help="Let it take permits again, unless it has begun to end.")
@BY
@AS_JSON
def drain(
    worker: str | None,
    *,
    profile: str | None,
    every: bool,
    within: timedelta | None,
    then: str,
    wait: bool,
    undo: bool,
    by: str,
    as_json: bool,
) -> None:
    """Let a worker take nothing more: it finishes what it holds, then idles (`drained` in `workers list`), or ends.

    WORKER is its name, or how the name of just one begins. Asked again, the newest --within and --then count.
    """
    from worker.runs import draining
    from worker.store.operations import Then

    if (worker is None) == (profile is None):
        raise click.UsageError("give WORKER or --profile NAME")
    if undo and (within is not None or then != "stay" or wait):
        raise click.UsageError("--undo takes neither --within, nor --then, nor --wait")

    def act(session: Any) -> dict[str, bool]:
        if profile is not None:
            names = draining.serving(session, profile)
        else:
            names = draining.named(session, worker or "", every=every)
        if undo:
            return draining.undo(session, names)
        return draining.drain(session, names, by=by, within=within, then=Then(then))

    asked = in_transaction(act)
    if wait:
        _wait_for(list(asked), ended=then != "stay")
    if as_json:
        terminal.data([{"worker": name, "was_draining": was, "draining": not undo} for name, was in asked.items()])
        return
    for name, was in asked.items():
        undone = "takes permits again" if was else "was not draining"
        done = "takes nothing more" if not wait else ("has ended" if then != "stay" else "holds nothing")
        terminal.line(f"{name}: {undone if undo else done}")


def _wait_for(names: Sequence[str], *, ended: bool) -> None:
    """Until these workers hold nothing, or have `ended`; one that is lost does neither, and is not waited for."""
    from worker.runs import workforce
    from worker.store.session import Store

    over = {"stopped", "failed", "lost", *(() if ended else ("drained",))}
    store = Store(located().need("database_url"), pool_size=1)
    try:
        while True:
            with store.transaction() as session:
                left = [seen for seen in workforce.seen(session, every=True) if seen.name in names]
            undone = [seen.name for seen in left if seen.state == "running"]
            if undone:
                raise NotDone(f"{', '.join(undone)}: the drain was undone")
            if all(seen.state in over for seen in left):
                return
            time.sleep(POLL_SECONDS)
    finally:
        store.close()


@click.command(epilog="Example: devstral-fix pause --reason 'GPU maintenance'")
@click.option("--reason", default=None, help="Shown to people: in `runs list`, `doctor` and on new issues.")
@REPOSITORY
@click.option("--now", "at_once", is_flag=True, help="What runs is given back at the end of its step.")
@BY
@AS_JSON
def pause(reason: str | None, repository: str | None, by: str, *, at_once: bool, as_json: bool) -> None:
    """Start no run and open no pull request until `devstral-fix resume`. Requests are taken, and wait."""
    from worker.runs import pausing

    def act(session: Any) -> bool:
        pausing.pause(session, by=by, reason=reason, repository=repository, at_once=at_once)
        return repository is None or pausing.known(session, repository)

    seen = in_transaction(act)
    unknown = "" if seen else " (nothing was ever asked of this repository)"
    data = {"paused": True, "repository": repository, "known": seen, "at_once": at_once}
    show_done(data, f"paused: {repository or 'everything'}{unknown}", as_json=as_json)


@click.command(epilog="Example: devstral-fix resume")
@REPOSITORY
@AS_JSON
def resume(repository: str | None, *, as_json: bool) -> None:
    """End a pause, and let what waited go on."""
    from worker import wakes
    from worker.runs import pausing

    if not in_transaction(lambda session: pausing.resume(session, repository=repository)):
        raise NotDone(f"was not paused: {repository or 'everything'}")
    send(wakes.sweep())
    show_done({"paused": False, "repository": repository}, f"resumed: {repository or 'everything'}", as_json=as_json)
