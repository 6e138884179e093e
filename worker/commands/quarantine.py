"""`devstral-fix quarantine`: what is not tried for now, and its way out."""

from __future__ import annotations

import click

from worker import terminal
from worker.commands.base import AS_JSON, BY, NotDone, Target, in_transaction, show_list


@click.group(epilog="Example: devstral-fix quarantine list")
def quarantine() -> None:
    """Issues and repositories that failed repeatedly and are not tried for now."""


@quarantine.command("list", epilog="Example: devstral-fix quarantine list --json | jq '.[0]'")
@AS_JSON
def list_standing(*, as_json: bool) -> None:
    """What stands now, and why."""
    from worker.runs import quarantine as domain

    found = [
        {
            "repository": kept.repository,
            "issue_number": kept.issue_number,
            "reason": kept.reason,
            "since": kept.since.isoformat(),
            "until": kept.until.isoformat() if kept.until else None,
        }
        for kept in in_transaction(domain.all_standing)
    ]
    rows = [
        [
            one["repository"] if one["issue_number"] is None else f"{one['repository']}#{one['issue_number']}",
            one["until"] or "lifted",
            one["reason"],
        ]
        for one in found
    ]
    show_list(found, ["what", "until", "why"], rows, none="nothing is in quarantine", as_json=as_json)


@quarantine.command("lift", epilog="Example: devstral-fix quarantine lift acme/shop#7")
@click.argument("what", type=Target(), metavar="OWNER/REPO[#N]")
@BY
def lift(what: tuple[str, int | None], by: str) -> None:
    """End one now: OWNER/REPO#N for an issue, OWNER/REPO for a repository. Counting starts anew."""
    from worker.runs import quarantine as domain

    repository, issue = what
    name = repository if issue is None else f"{repository}#{issue}"
    if not in_transaction(lambda session: domain.lift(session, repository, issue, by=by)):
        raise NotDone(f"{name} is not in quarantine")
    terminal.line(f"{name}: lifted")
