"""From what people say about a pull request of ours to a run that revises it; from a question to one that answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from worker import wakes
from worker.holding import Work
from worker.runs import pull_requests, remarks, requests, revisions, setups
from worker.runs.asked import ChecksRequest, CommandRequest, ReviewRequest, WaitingRequest
from worker.runs.remarks import Said
from worker.runs.revisions import Start
from worker.stages import config, texts
from worker.stages.config import RepositoryConfig
from worker.stages.desk import Desk
from worker.stages.entitlement import Refused, entitled
from worker.stages.forge import Forge, PullRequestRef, Review
from worker.stages.layer import needed
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, PullRequest, Run
from worker.store.remarks import RemarkSource
from worker.store.session import after_commit

log = logging.getLogger(__name__)

OURS = "<!-- devstral-fix:"
Request = ReviewRequest | CommandRequest | WaitingRequest | ChecksRequest
MOST_CHECKS, CHECKS_CHARS = 3, 20_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request on its way to a run."""

    desk: Desk
    delivery: Delivery
    request: Request
    forge: Forge
    work: Work
    traceparent: str | None


def review(desk: Desk, delivery: Delivery, request: ReviewRequest, work: Work, traceparent: str | None) -> None:
    """One run a review. An approval asks for nothing, and neither does a review without words."""
    known = _known(desk, request)
    with desk.store.transaction() as session:
        pull_requests.reviewed(session, known.id)
    forge = desk.forges.open(request.repository, request.installation_id)
    entitled(forge, request)
    if request.state == "approved":
        raise Refused("the review approves")
    found = forge.review(request.issue_number, request.review_id)
    if found.author.casefold() != request.sender.casefold():
        raise Refused("the review is not its sender's own")
    said = _said(found)
    if not said:
        raise Refused("the review says nothing")
    asked = Asked(desk=desk, delivery=delivery, request=request, forge=forge, work=work, traceparent=traceparent)
    _revise(asked, known, said)


def comment(desk: Desk, delivery: Delivery, request: CommandRequest, work: Work, traceparent: str | None) -> None:
    """`/devstral revise …` below a pull request. Whoever gave it is known to be entitled."""
    known = _known(desk, request)
    forge = desk.forges.open(request.repository, request.installation_id)
    words = request.words or "Look at the change once more, and mend what is wrong with it."
    said = Said(source=RemarkSource.COMMENT, source_id=request.comment_id, author=request.sender, body=words)
    asked = Asked(desk=desk, delivery=delivery, request=request, forge=forge, work=work, traceparent=traceparent)
    _revise(asked, known, [said])


def waiting(desk: Desk, delivery: Delivery, request: WaitingRequest, work: Work, traceparent: str | None) -> None:
    """What was said while a run of the branch was at work."""
    known = _known(desk, request)
    with desk.store.transaction() as session:
        if not remarks.wait(session, request.repository, request.issue_number):
            raise Refused("nothing waits any more")
    forge = desk.forges.open(request.repository, request.installation_id)
    asked = Asked(desk=desk, delivery=delivery, request=request, forge=forge, work=work, traceparent=traceparent)
    _revise(asked, known, [])


def checks(desk: Desk, delivery: Delivery, request: ChecksRequest, work: Work, traceparent: str | None) -> None:
    """Checks that fail on a commit of ours, while it is the newest: another commit, three times in a row at most."""
    with desk.store.transaction() as session:
        known = queries.pull_request(session, request.repository, request.branch)
        heads = queries.pushed_heads(session, request.repository, request.branch)
    if known is None or request.head not in heads:
        raise Refused("the checks are not of a commit of ours")
    forge = desk.forges.open(request.repository, request.installation_id)
    if forge.pull_request(known.number).head_commit != request.head:
        raise Refused("the branch has moved since")
    with desk.store.transaction() as session:
        run = session.get_one(Run, known.run_id)
        tried = remarks.checks_in_a_row(session, request.repository, known.number)
    if not RepositoryConfig.model_validate(run.repository_config).follow_checks:
        raise Refused("the repository's settings leave failing checks to people")
    if tried >= MOST_CHECKS:
        _give_up(forge, known, request.head, tried)
        raise Refused(f"the checks failed on {tried} commits in a row")
    failed = forge.failed_checks(request.head)
    if not failed:
        raise Refused("no check of others has failed")
    told = (f"The check {one.name} failed ({one.url}). It says:\n\n{one.text or '(nothing)'}" for one in failed)
    said = Said(
        source=RemarkSource.CHECK,
        source_id=request.suite_id,
        author="continuous integration",
        body="\n\n".join(told)[:CHECKS_CHARS],
        head=request.head,
    )
    request = request.model_copy(update={"sender": run.requested_by, "sender_id": run.requested_by_id})
    asked = Asked(desk=desk, delivery=delivery, request=request, forge=forge, work=work, traceparent=traceparent)
    _revise(asked, known, [said])


def _give_up(forge: Forge, known: PullRequest, head: str, tried: int) -> None:
    """Say once that nothing more is tried; what people say begins the count anew."""
    marker = texts.checks_marker(head)
    if forge.find_comment(known.number, marker) is None:
        words = f"The checks failed on {tried} commits in a row. Nothing more is tried until somebody says what to do."
        forge.create_comment(known.number, f"{marker}\n\n{words}")


def explain(desk: Desk, delivery: Delivery, request: CommandRequest, work: Work, traceparent: str | None) -> None:
    """A question, at an issue or at a pull request of ours. Whoever asks is known to be entitled."""
    forge = desk.forges.open(request.repository, request.installation_id)
    asked = Asked(desk=desk, delivery=delivery, request=request, forge=forge, work=work, traceparent=traceparent)
    number, pull = request.issue_number, None
    if request.on_pull_request:
        known = _known(desk, request)
        pull = forge.pull_request(number)
        issue = forge.issue(known.issue_number)
        request = request.model_copy(
            update={"issue_number": issue.number, "title": issue.title, "body": issue.body, "on_pull_request": False}
        )
    start = _start(asked, pull, issue_number=request.issue_number, title=request.title, body=request.body)
    said = Said(source=RemarkSource.COMMENT, source_id=request.comment_id, author=request.sender, body=request.words)
    with desk.store.transaction() as session:
        requests.lock_issue(session, request.repository, request.issue_number)
        begun = revisions.explain(session, start, number=number, comment_id=request.comment_id)
        if begun.created:
            remarks.keep(session, request.repository, number, [said])
            remarks.attach(session, begun.run_id, request.repository, number, source_id=request.comment_id)
            after_commit(session, lambda: _wake(desk, start, begun.run_id))
        reason = None if begun.created else "another question about this is being answered; ask again after that"
        state = DeliveryState.HANDLED if begun.created else DeliveryState.IGNORED
        requests.finish_delivery(session, delivery.id, state, reason=reason, run_id=begun.run_id)


def _known(desk: Desk, request: ReviewRequest | CommandRequest | WaitingRequest) -> PullRequest:
    with desk.store.transaction() as session:
        known = pull_requests.known(session, request.repository, request.issue_number)
    if known is None:
        raise Refused("the pull request is not from this service")
    return known


def _said(found: Review) -> list[Said]:
    """The words of a review and its author's comments at lines; none of ours, which others may quote."""
    whole = [Said(source=RemarkSource.REVIEW, source_id=found.id, author=found.author, body=found.body)]
    at_lines = [
        Said(
            source=RemarkSource.REVIEW_COMMENT,
            source_id=one.id,
            author=one.author,
            body=one.body,
            path=one.path,
            line=one.line,
            hunk=one.hunk,
        )
        for one in found.comments
        if one.author == found.author
    ]
    return [one for one in [*whole, *at_lines] if one.body.strip() and OURS not in one.body]


def _revise(asked: Asked, known: PullRequest, said: Sequence[Said]) -> None:
    desk, request = asked.desk, asked.request
    pull = asked.forge.pull_request(known.number)
    if pull.state != "open":
        raise Refused("the pull request is closed", tell=True)
    with desk.store.transaction() as session:
        before = session.get_one(Run, known.run_id)
    start = _start(asked, pull, issue_number=known.issue_number, title=before.issue_title, body=before.issue_body)
    with desk.store.transaction() as session:
        requests.lock_issue(session, known.repository, known.issue_number)
        new = remarks.keep(session, request.repository, known.number, said)
        if said and not new:
            raise Refused("all of this was said before")
        begun = revisions.revise(session, start, branch=known.branch, number=known.number)
        if begun.created or begun.joined:
            remarks.attach(session, begun.run_id, request.repository, known.number)
        if begun.created:
            after_commit(session, lambda: _wake(desk, start, begun.run_id))
        reason = None if begun.created else "part of the run that waits" if begun.joined else "waits for a run's end"
        requests.finish_delivery(session, asked.delivery.id, DeliveryState.HANDLED, reason=reason, run_id=begun.run_id)
    log.info("revision_asked_for", extra={"run_id": begun.run_id, "is_new": begun.created, "remarks": new})
    if begun.created:
        desk.acknowledge(asked.forge, begun.run_id)


def _start(asked: Asked, pull: PullRequestRef | None, *, issue_number: int, title: str, body: str) -> Start:
    """From the pull request's commit, or from the default branch where there is none. Settings are the base's."""
    desk, request = asked.desk, asked.request
    repository = asked.forge.repository()
    if repository.archived or repository.disabled:
        raise Refused("the repository is archived or disabled")
    repositories = desk.repositories
    asked.work.check()
    mirror = repositories.fetch(request.repository, repository.clone_url, asked.forge.git_token("read"))
    base_branch = repository.default_branch if pull is None else pull.base_branch
    tip = repositories.resolve(mirror, base_branch)
    head = tip if pull is None else repositories.resolve(mirror, pull.head_branch)
    base = repositories.merge_base(mirror, tip, head)
    try:
        settings = config.parse(repositories.read_file(mirror, base, config.PATH))
    except config.ConfigError as error:
        raise Refused(str(error), tell=True) from error
    return Start(
        repository=request.repository,
        installation_id=request.installation_id,
        clone_url=repository.clone_url,
        issue_number=issue_number,
        title=title,
        body=body,
        base_branch=base_branch,
        base_commit=base,
        head_commit=head,
        repository_config=settings.model_dump(mode="json"),
        held_reason=setups.HELD if needed(repositories, mirror, base, settings) else None,
        profile=desk.profile,
        max_attempts=desk.max_attempts,
        sender=request.sender,
        sender_id=request.sender_id,
        traceparent=asked.traceparent,
    )


def _wake(desk: Desk, start: Start, run_id: UUID) -> None:
    desk.send(wakes.setup(run_id) if start.held_reason else wakes.permit(start.profile))
