"""`devstral-fix quarantine`: what is not tried for now, and its way out."""

from __future__ import annotations

import json

import click

from worker.commands.base import in_transaction


@click.group(epilog="Example: devstral-fix quarantine list")
def quarantine() -> None:
    """Issues and repositories that failed repeatedly and are not tried for now."""


@quarantine.command("list", epilog="Example: devstral-fix quarantine list --json | jq .")
@click.option("--json", "as_json", is_flag=True)
def list_standing(*, as_json: bool) -> None:
    """What stands now, and why."""
    from worker.runs import quarantine as domain

    for kept in in_transaction(domain.all_standing):
        data = {
            "repository": kept.repository,
            "issue_number": kept.issue_number,
            "reason": kept.reason,
            "since": kept.since.isoformat(),
            "until": kept.until.isoformat() if kept.until else None,
        }
        where = kept.repository if kept.issue_number is None else f"{kept.repository}#{kept.issue_number}"
        click.echo(json.dumps(data) if as_json else f"{where}  until {data['until'] or 'lifted'}  {kept.reason}")


@quarantine.command("lift", epilog="Example: devstral-fix quarantine lift acme/shop#7")
@click.argument("what")
@click.option("--by", default="operator", show_default=True, help="Who lifts it, for the record.")
def lift(what: str, by: str) -> None:
    """End one now: OWNER/NAME#NUMBER for an issue, OWNER/NAME for a repository. Counting starts anew."""
    from worker.runs import quarantine as domain

    repository, _, number = what.partition("#")
    if number and not number.isdecimal():
        raise click.BadParameter(f"{what!r} is neither OWNER/NAME nor OWNER/NAME#NUMBER")
    issue = int(number) if number else None
    if not in_transaction(lambda session: domain.lift(session, repository, issue, by=by)):
        raise click.BadParameter(f"{what} is not in quarantine")
    click.echo(f"{what}: lifted")
