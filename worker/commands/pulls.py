"""`devstral-fix pulls`: the service's pull requests, and what became of them."""

from __future__ import annotations

from typing import Any

import click

from worker import money
from worker.commands.base import AS_JSON, Repository, in_transaction, show_list

KEYS = ("repository", "label", "model", "profile", "outcome", "prompt")


@click.group(epilog="Example: devstral-fix pulls acceptance --by model")
def pulls() -> None:
    """The service's pull requests, and what became of them."""


@pulls.command("list", epilog="Example: devstral-fix pulls list --state open --json")
@click.option("--state", type=click.Choice(["open", "merged", "closed"]), default=None, help="Only these.")
@click.option("--repository", type=Repository(), default=None, help="OWNER/REPO: only of this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@AS_JSON
def list_pulls(state: str | None, repository: str | None, limit: int, *, as_json: bool) -> None:
    """The newest pull requests: state, evidence, and how much of the change was merged."""
    from worker.runs import pull_requests

    found = in_transaction(
        lambda session: list(pull_requests.described(session, state=state, repository=repository, limit=limit))
    )
    rows = [
        (
            one["state"] + (" (draft)" if one["draft"] and one["state"] == "open" else ""),
            one["outcome"] or "?",
            _share(one["survived"]),
            "yes" if one["changed_by_people"] else "no",
            one["url"],
        )
        for one in found
    ]
    show_list(
        found, ["state", "outcome", "survived", "people", "pull request"], rows, none="no pull request", as_json=as_json
    )


@pulls.command("acceptance", epilog="Example: devstral-fix pulls acceptance --by repository")
@click.option("--by", type=click.Choice(KEYS), default="repository", show_default=True, help="What is compared.")
@AS_JSON
def acceptance(by: str, *, as_json: bool) -> None:
    """How many were merged, how soon, and how much of them survived.

    Accepted: merged, of those that ended. Survived: the mean share of added lines that were merged. Hours are medians,
    to the first review and to the end.
    """
    from worker.store import acceptance as figures

    found = in_transaction(lambda session: list(figures.acceptance(session, by)))
    head = [by, "opened", "open", "merged", "closed", "accepted", "survived", "review", "end", "a merge costs"]
    show_list(found, head, list(map(_figures, found)), none="no pull request", as_json=as_json)


def _figures(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["key"] or "(none)",
        *(str(one[name]) for name in ("opened", "open", "merged", "closed")),
        *(_share(one[name]) for name in ("accepted", "survived")),
        *(_hours(one[name]) for name in ("hours_to_review", "hours_to_end")),
        "-" if one["usd_per_merged"] is None else money.usd(one["usd_per_merged"]),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} h"
