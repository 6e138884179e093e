"""Looking through a backlog: who is asked about, in which order, at which cost, and when it stops."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from agent.triage.asking import Asked, Backlog, Open, ask
from agent.triage.backlog import BacklogIssue
from agent.triage.ranking import Ranked, ranked
from agent.triage.similarity import Similar, groups, similar
from agent.types import Price, Sampling, Usage
from worker.errors import ModelRejected, Transient
from worker.triage.notebook import Kept

CALL_SECONDS = 300.0
MAX_TOKENS = 700  # of an answer: the form with ten files and six gaps takes about half of it
DOWN = 3  # questions in a row that the model did not take: then it is down


class ModelGaveUp(Transient):
    """The model answers no more; what was answered until then is kept."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """`fresh`: questions asked this time. `usage` and `usd` (at most) are theirs; `usd_before` of kept ones."""

    issues: tuple[Ranked, ...]
    fresh: int
    kept: int
    usage: Usage
    usd: float
    usd_before: float
    stopped: str | None
    seconds: float


@dataclass(kw_only=True)
class Looking:
    """`budget` in USD for everything that was ever asked and kept; None: no limit. `told` hears of each answer."""

    opened: Open
    backlog: Backlog
    kept: Kept
    price: Price
    budget: float | None = None
    concurrency: int = 16
    cancel: threading.Event = field(default_factory=threading.Event)
    told: Callable[[Asked], None] = lambda _: None
    _answers: dict[int, Asked] = field(default_factory=dict, init=False)
    _usd: float = field(default=0.0, init=False)
    _dearest: float = field(default=0.0, init=False)
    _asked_one: bool = field(default=False, init=False)

    def through(self, issues: Sequence[BacklogIssue]) -> Looked:
        """Raises ModelGaveUp. Otherwise each issue has an answer, or the reason why it has none."""
        began = time.monotonic()
        alike = similar(issues)
        twins = groups(issues, alike)
        later = {number for group in twins for number in group[1:]}  # one answer counts for all of a group
        wanted = [issue for issue in issues if issue.number not in later]
        kept = {issue.number: answer for issue in wanted if (answer := self.kept.answer(issue)) is not None}
        self._answers = dict(kept)
        before = sum(self.price.call(answer.usage)[1] for answer in kept.values())
        self._usd = before
        stopped = self._ask([issue for issue in wanted if issue.number not in kept], alike)
        fresh = [answer for number, answer in self._answers.items() if number not in kept]
        if stopped is not None:
            for issue in wanted:
                self._answers.setdefault(issue.number, Asked(number=issue.number, failure=f"not asked: {stopped}"))
        return Looked(
            issues=tuple(ranked(issues, self._answers, twins)),
            fresh=len(fresh),
            kept=len(kept),
            usage=sum((answer.usage for answer in fresh), Usage()),
            usd=self._usd - before,
            usd_before=before,
            stopped=stopped,
            seconds=time.monotonic() - began,
        )

    def _ask(self, waiting: list[BacklogIssue], alike: dict[int, tuple[Similar, ...]]) -> str | None:
        """Why it stopped before the last one; None where it did not."""
        running: dict[Future[Asked], BacklogIssue] = {}
        following = deque(waiting)
        failures = 0
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="triage") as pool:
            while following or running:
                while following and self._has_room(len(running)):
                    issue = following.popleft()
                    running[pool.submit(self._one, issue, alike)] = issue
                if not running:
                    return "stopped" if self.cancel.is_set() else "the budget is used up"
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    issue = running.pop(future)
                    try:
                        self._answered(issue, future.result())
                        failures = 0
                    except (Transient, ModelRejected) as error:
                        failures += 1
                        self._answers[issue.number] = Asked(number=issue.number, failure=str(error), final=False)
                        if failures >= DOWN:
                            self.cancel.set()  # ends the others; what they were asked is asked again next time
                            raise ModelGaveUp(f"{failures} questions in a row had no answer: {error}") from error
        return None

    def _has_room(self, running: int) -> bool:
        if self.cancel.is_set() or running >= self.concurrency:
            return False
        if self.budget is None:
            return True
        if self._usd >= self.budget:
            return False
        # What a question costs is known from the first one, which is asked alone; then none may cost more than the
        # dearest so far, or the budget is exceeded by what the last ones cost more.
        if not self._asked_one:
            return running == 0
        return self._usd + (running + 1) * self._dearest <= self.budget

    def _one(self, issue: BacklogIssue, alike: dict[int, tuple[Similar, ...]]) -> Asked:
        return ask(
            self.opened,
            self.backlog,
            issue,
            similar=[one.number for one in alike.get(issue.number, ())],
            sampling=Sampling(temperature=0.0, max_tokens=MAX_TOKENS),
            deadline=time.monotonic() + CALL_SECONDS,
            cancel=self.cancel,
        )

    def _answered(self, issue: BacklogIssue, asked: Asked) -> None:
        usd = self.price.call(asked.usage)[1]
        self._usd += usd
        self._dearest = max(self._dearest, usd)
        self._answers[issue.number] = asked
        self._asked_one = True
        if asked.final:
            self.kept.keep(issue, asked)
        self.told(asked)
