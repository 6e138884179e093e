"""`devstral-fix workers`, `drain`, `pause`, `resume`: look at the service's processes, and hold them back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from worker import terminal
from worker.commands.base import AS_JSON, BY, NotDone, Repository, in_transaction, send, show_done, show_list

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
    """The worker processes: what each takes, what it holds, and when it was last seen."""
    from worker.runs import workforce

    def row(seen: workforce.Seen) -> list[str]:
        asked = f" (asked by {seen.drain_requested_by})" if seen.drain_requested_by else ""
        ages = f"{seen.age_seconds:.0f} s", f"{seen.seen_seconds_ago:.0f} s ago"
        about = ",".join(seen.queues), seen.isolation, seen.version, *ages, " ".join(map(str, seen.holds)) or "nothing"
        return [seen.name, seen.role, f"{seen.state}{asked}", str(seen.slots), *about]

    found = in_transaction(lambda session: workforce.seen(session, every=every))
    show_list(
        json.loads(json.dumps([asdict(seen) for seen in found], default=str)),
        ["worker", "role", "state", "slots", "queues", "isolation", "version", "up", "seen", "holds"],
        [row(seen) for seen in found],
        none="no worker ever started here" if every else "no worker is there",
        as_json=as_json,
    )


@click.command(epilog="Example: devstral-fix drain gpu-host-1:4711")
@click.argument("worker")
@click.option("--all", "every", is_flag=True, help="Every worker whose name begins so, such as all of a host.")
@click.option("--undo", is_flag=True, help="Let it take permits again.")
@BY
@AS_JSON
def drain(worker: str, *, every: bool, undo: bool, by: str, as_json: bool) -> None:
    """Let a worker take nothing more: it finishes what it holds, then idles (`drained` in `workers list`).

    WORKER is its name, or how the name of just one begins.
    """
    from worker.runs import workforce

    asked = in_transaction(lambda session: workforce.drain(session, worker, by=by, every=every, undo=undo))
    if as_json:
        terminal.data([{"worker": name, "was_draining": was, "draining": not undo} for name, was in asked])
        return
    for name, was in asked:
        undone = "takes permits again" if was else "was not draining"
        terminal.line(f"{name}: {undone if undo else 'takes nothing more'}")


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
