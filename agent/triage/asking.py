"""One question about one issue: what the model is told, and its answer as an assessment."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from threading import Event

from agent.errors import LimitsExceeded
from agent.prompts.fence import bounded, tag_for, visible
from agent.prompts.filemap import file_map
from agent.prompts.templates import fill, source
from agent.protocols import CallsForced, Conversation
from agent.triage.assessment import ASSESS, Assessment, BadAnswer, read
from agent.triage.backlog import BacklogIssue
from agent.types import AssistantMessage, Frozen, Sampling, ToolMessage, ToolSpec, Usage, UserMessage

TRIES = 2  # a model that can't fill in the form twice is not asked a third time
BODY_BYTES, TITLE_CHARACTERS = 8_000, 300
MAP_ENTRIES = 200
_FILE = "triage.md"
_LABELS = 10

Open = Callable[[str, Sequence[ToolSpec]], Conversation]


class Backlog(Frozen):
    """What the questions about one repository have in common. `files`: its paths; None where they are not known."""

    repository: str
    files: tuple[str, ...] | None
    titles: Mapping[int, str]  # of all issues that are looked through


class Asked(Frozen):
    """An assessment, or why there is none. `tries`: calls of the model. `final`: to ask again would change nothing."""

    number: int
    assessment: Assessment | None = None
    failure: str | None = None
    usage: Usage = Usage()
    tries: int = 0
    seconds: float = 0.0
    final: bool = True


def system() -> str:
    return fill(_FILE, "system")


def prompt_hash() -> str:
    """sha256 of the wording and the form: equal hashes mean equally worded questions."""
    offered = json.dumps(ASSESS.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{source(_FILE)}\0{offered}".encode()).hexdigest()


def question(backlog: Backlog, issue: BacklogIssue, similar: Collection[int] = ()) -> str:
    """What is the same for all issues comes first, so that an engine computes it once."""
    shown = [fill(_FILE, "repository", repository=visible(backlog.repository))]
    if backlog.files:
        shown.append(fill(_FILE, "files", files=file_map(backlog.files, MAP_ENTRIES)))
    if similar:
        lines = "\n".join(f"#{number}: {_line(backlog.titles.get(number, ''))}" for number in similar)
        shown.append(fill(_FILE, "similar", tag=tag_for("similar_issues", lines), similar=lines))
    body = bounded(visible(issue.body), BODY_BYTES) or "(no text beyond its title)"
    shown.append(
        fill(
            _FILE,
            "issue",
            number=str(issue.number),
            opened=issue.created_at.date().isoformat() if issue.created_at else "at an unknown time",
            changed=issue.updated_at.date().isoformat() if issue.updated_at else "at an unknown time",
            comments=str(issue.comments),
            labels=", ".join(_line(label)[:50] for label in issue.labels[:_LABELS]) or "none",
            title=_line(issue.title),
            tag=tag_for("issue_text", body),
            body=body,
        )
    )
    return "\n\n".join(shown)


def ask(
    opened: Open,
    backlog: Backlog,
    issue: BacklogIssue,
    *,
    similar: Collection[int] = (),
    sampling: Sampling,
    deadline: float,
    cancel: Event,
) -> Asked:
    """`opened` begins a conversation: an engine's `beside`, which pushes no trajectory out, or a model's `open`.
    `deadline` as for `Conversation.complete`. Raises what the model raises: one that is down answers nothing."""
    began = time.monotonic()
    usage, tries, failure, final = Usage(), 0, None, True
    files = None if backlog.files is None else frozenset(backlog.files)
    assessment = None
    with closing(opened(system(), (ASSESS,))) as conversation:
        conversation.add([UserMessage(content=question(backlog, issue, similar))])
        while assessment is None and tries < TRIES:
            try:
                call = conversation.complete_call if isinstance(conversation, CallsForced) else conversation.complete
                done = call(sampling, deadline=deadline, cancel=cancel)
            except LimitsExceeded as error:
                failure = f"the question does not fit the model's window ({error})"
                break
            tries, usage = tries + 1, usage + done.usage
            if done.finish_reason == "abort":
                failure, final = "stopped" if cancel.is_set() else "no answer in time", False
                break
            try:
                assessment = read(_arguments(done.message), number=issue.number, others=similar, files=files)
            except BadAnswer as error:
                failure = f"no usable answer in {tries} tries: {error}"
                if tries < TRIES:
                    conversation.add(_again(done.message, str(error)))
    return Asked(
        number=issue.number,
        assessment=assessment,
        failure=None if assessment is not None else failure,
        usage=usage,
        tries=tries,
        seconds=time.monotonic() - began,
        final=final,
    )


def _arguments(answer: AssistantMessage) -> str:
    """Of the first call of `assess`; else of a JSON object that the text is, which small models write instead."""
    for call in answer.tool_calls:
        if call.name == ASSESS.name:
            return call.arguments
    if answer.tool_calls:
        raise BadAnswer(f"there is no tool {answer.tool_calls[0].name[:50]!r}")
    begin, end = answer.content.find("{"), answer.content.rfind("}")
    if begin < 0 or end < begin:
        raise BadAnswer("it calls no tool")
    return answer.content[begin : end + 1]


def _again(answer: AssistantMessage, why: str) -> list[ToolMessage | UserMessage]:
    text = fill(_FILE, "again", why=why)
    if not answer.tool_calls:
        return [UserMessage(content=text)]
    return [ToolMessage(tool_call_id=call.id, name=call.name, content=text) for call in answer.tool_calls]


def _line(text: str) -> str:
    return " ".join(visible(text).split())[:TITLE_CHARACTERS]
