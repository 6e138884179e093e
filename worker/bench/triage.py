"""`make bench-triage`: what looking through a backlog costs beside the model and GitHub."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from agent.tokens import TokenCounter
from agent.triage.asking import Backlog
from agent.triage.assessment import ASSESS
from agent.triage.backlog import BacklogIssue
from agent.triage.similarity import groups, similar
from agent.types import AssistantMessage, Price, ToolCall, UserMessage
from worker.adapters.engine.conversation import EngineModel
from worker.bench import records
from worker.bench.corpus import Corpus
from worker.bench.instant import InstantBackend, facts, hosted
from worker.bench.records import Figure, figure
from worker.stages.forge import BacklogPage
from worker.triage.listing import listed
from worker.triage.looking import Looking
from worker.triage.notebook import Notebook

COMMAND = "make bench-triage"
ISSUES, MANY = 200, 5_000
TITLE, BODY = 10, 300  # tokens of an issue
CONCURRENCY = 16
_FORM = {
    "kind": "bug",
    "solvable": True,
    "reason": "The report names the function, what it returns, and what it should return.",
    "missing": ["the version"],
    "files": ["src/parser/reader.py", "tests/test_reader.py"],
    "difficulty": "easy",
    "risk": "low",
}
_ABOUT = """\
No language model ran and no GitHub answered: an instant engine, behind the service's own host, gives each question the
same answer in the form that is asked for, so what is left is ours: finding similar issues, the wording and encoding of
questions with the model's vocabulary, threads, reading of answers, and a line on the disk for each. Issues are cut from
this project's source code. The listing is of pages in memory, each kept on the disk."""


class _Pages:
    def __init__(self, issues: Sequence[BacklogIssue]) -> None:
        self._issues = issues

    def backlog(self, page: int, *, labels: Sequence[str], since: datetime | None) -> BacklogPage:
        del labels, since
        part = tuple(self._issues[(page - 1) * 100 : page * 100])
        return BacklogPage(issues=part, more=len(part) == 100)


def issues(corpus: Corpus, count: int) -> list[BacklogIssue]:
    return [
        BacklogIssue(number=n, title=corpus.text(TITLE, "title", n), body=corpus.text(BODY, "body", n))
        for n in range(1, count + 1)
    ]


def measure(counter: TokenCounter) -> list[Figure]:
    corpus = Corpus(counter)
    backlog = issues(corpus, MANY)
    with tempfile.TemporaryDirectory(prefix="devstral-fix-") as scratch:
        whole, cpu, asked = _look(counter, backlog[:ISSUES], Path(scratch) / "looked")
        began = time.monotonic()
        with _notebook(Path(scratch) / "listed") as notebook:
            pages = _Pages(backlog)
            found = listed(
                pages, notebook, labels=(), since=None, limit=None, now=lambda: datetime.now(UTC), cancel=Event()
            )
        listing = time.monotonic() - began
        assert len(found) == MANY
        began = time.monotonic()
        _notebook(Path(scratch) / "listed").close()
        opening = time.monotonic() - began
    began = time.monotonic()
    groups(backlog, similar(backlog))
    alike = time.monotonic() - began
    return [
        figure(f"{ISSUES} issues, {CONCURRENCY} at a time: wall", whole, "s", goal=20, command=COMMAND),
        figure("of an issue: wall", 1000 * whole / asked, "ms", goal=20, command=COMMAND),
        figure("of an issue: CPU, all threads", 1000 * cpu / asked, "ms", goal=20, command=COMMAND),
        figure(f"similar ones among {MANY:,} issues", alike, "s", goal=None, command=COMMAND),
        figure(f"{MANY:,} issues listed and kept", listing, "s", goal=None, command=COMMAND),
        figure(f"{MANY:,} kept issues read again", opening, "s", goal=None, command=COMMAND),
    ]


def _notebook(path: Path) -> Notebook:
    return Notebook(path, repository="bench", model="instant", prompt="bench")


def _look(counter: TokenCounter, backlog: Sequence[BacklogIssue], path: Path) -> tuple[float, float, int]:
    """Seconds, those of CPU without what pretending to be an engine took, and how many were asked about."""
    backend = InstantBackend([_answer(counter)], facts(kv_tokens=1_000_000, max_model_len=32_768))
    host = hosted(backend)
    source = random.Random(1)  # noqa: S311 - no secret
    files = tuple(f"src/{source.randrange(20)}/module_{n}.py" for n in range(1_000))
    try:
        with _notebook(path) as kept:
            looking = Looking(
                opened=EngineModel(host, counter, "instant").beside,
                backlog=Backlog(repository="bench", files=files, titles={one.number: one.title for one in backlog}),
                kept=kept,
                price=Price(),
                concurrency=CONCURRENCY,
            )
            began, cpu = time.monotonic(), time.process_time()
            looked = looking.through(backlog)
            return time.monotonic() - began, time.process_time() - cpu - backend.cpu, looked.fresh
    finally:
        host.shutdown()


def _answer(counter: TokenCounter) -> array[int]:
    history = counter.open("", (ASSESS,))
    history.add(UserMessage(content="."))
    start = len(history)
    call = ToolCall(id="call00000", name=ASSESS.name, arguments=json.dumps(_FORM))
    history.add(AssistantMessage(tool_calls=(call,)))
    return history.ids[start:]


def main() -> int:
    """The exit status: 1 when a goal was missed."""
    found = measure(TokenCounter())
    load = f"The machine's load was {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores meanwhile."
    records.write("triage", found, remarks=(_ABOUT, load))
    print(records.table(found))
    return 1 if any(one.met is False for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
