"""What a command in a comment comes to. Whoever gives one can write to the repository, or nothing happens."""

from __future__ import annotations

import logging

from worker.errors import Permanent, Transient
from worker.holding import Work
from worker.runs import pull_requests, requests
from worker.runs.asked import CommandRequest
from worker.runs.commands import HELP, SLASH, Verb
from worker.stages import revising, starting, stopping, telling, texts
from worker.stages.desk import Desk
from worker.stages.entitlement import Refused, entitled
from worker.stages.forge import Forge
from worker.store.models import Delivery, DeliveryState

log = logging.getLogger(__name__)


def obey(desk: Desk, delivery: Delivery, request: CommandRequest, work: Work, traceparent: str | None) -> None:
    forge = desk.forges.open(request.repository, request.installation_id)
    entitled(forge, request)
    if request.verb is Verb.REVISE or (request.verb is Verb.FIX and request.on_pull_request):
        if not request.on_pull_request:
            raise Refused("there is no pull request here to revise", tell=True)
        desk.react(forge, request, "eyes")
        revising.comment(desk, delivery, request, work, traceparent)
        return
    if request.verb is Verb.EXPLAIN:
        desk.react(forge, request, "eyes")
        revising.explain(desk, delivery, request, work, traceparent)
        return
    if request.on_pull_request:
        request = _of_its_issue(desk, forge, request)
    if request.verb in (Verb.FIX, Verb.RETRY):
        starting.start(desk, delivery, request.to_start(), work, traceparent)
        return
    desk.react(forge, request, "confused" if request.verb is Verb.UNKNOWN else "eyes")
    if request.verb is Verb.STOP:
        stopping.stop(desk, delivery, request.to_stop())
    else:
        _status(desk, delivery, request, [unknown(request.words)] if request.verb is Verb.UNKNOWN else [])


def unknown(words: str) -> str:
    """What there is to say, to people who said something else."""
    said = texts.inline(f"{SLASH} {words}".strip(), 100)
    known = "\n".join(f"- `{SLASH} {verb.value}`: {meaning}" for verb, meaning in HELP.items())
    return f"Not understood: {said}. The commands are:\n\n{known}"


def _of_its_issue(desk: Desk, forge: Forge, request: CommandRequest) -> CommandRequest:
    """At a pull request of ours a command is about the issue it is for, as that is now."""
    with desk.store.transaction() as session:
        known = pull_requests.known(session, request.repository, request.issue_number)
    if known is None:
        raise Refused("the pull request is not from this service")
    issue = forge.issue(known.issue_number)
    values = {"issue_number": issue.number, "title": issue.title, "body": issue.body, "issue_url": issue.url}
    return request.model_copy(update=values)


def _status(desk: Desk, delivery: Delivery, request: CommandRequest, notes: list[str]) -> None:
    with desk.store.transaction() as session:
        newest = requests.newest_run(session, request.repository, request.issue_number)
    try:
        telling.show(desk.store, desk.forges, request, newest, notes)
    except (Transient, Permanent) as error:
        log.warning("status_comment_failed", extra={"repository": request.repository, "why": str(error)})
    desk.finish(delivery, DeliveryState.HANDLED, f"told the {'commands' if notes else 'status'}", run_id=newest)
