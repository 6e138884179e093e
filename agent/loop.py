"""The loop: complete, book the spend, understand, execute, observe; until the model submits or a limit ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from threading import Event

from agent import prompts
from agent.actions import Ready, Refused, Turn, refuse, run, understand, unusable
from agent.anew import Anew
from agent.errors import AgentEnd, Cancelled, FormatErrors, NotSaved, Stuck, Submitted
from agent.memory import Memory
from agent.meter import Meter
from agent.prompts import later
from agent.protocols import Changes, Journal, Model, Session, is_approximate
from agent.resume import Progress, replay
from agent.talk import Talk
from agent.tools import default_tools
from agent.tools.base import spec
from agent.tools.text import clean
from agent.types import AgentResult, Completion, Limits, Price, Sampling, Task, UserMessage
from agent.window import Window
from agent.workspace import Workspace

MAX_UNUSABLE = 3  # answers in a row


class Agent:
    """One trajectory: one model, one workspace, one task. `run()` once.

    Every AgentEnd becomes a result. Errors of the ports (a model that is down, a dead sandbox, a lost lease) pass
    through `run()` after the conversation is closed; `result` then still says what was reached.
    """

    def __init__(
        self,
        model: Model,
        session: Session,
        journal: Journal,
        task: Task,
        *,
        limits: Limits,
        price: Price,
        sampling: Sampling,
        cancel: Event,
        changes: Changes,
        review: bool,
        progress: Progress = Progress(),  # noqa: B008  # a value: frozen
    ) -> None:
        """`review`: the model looks at its change once more before it is proposed."""
        self.model = model
        self.task = task
        self._journal = journal
        self.sampling = sampling
        self._cancel = cancel
        self.meter = Meter(limits, price, progress.used)
        self._window = Window.of(limits, sampling.max_tokens, approximate=is_approximate(model.tokenizer))
        self._changes = changes
        self._review = review
        self._progress = progress
        self._workspace = Workspace(session, limits.command_seconds, self.meter.deadline, cancel)
        self._tools = default_tools(limits)
        self.specs = tuple(map(spec, self._tools))
        self.system = prompts.system()
        self.prompt = ""  # the first user message, once `run` has begun
        self._memory = Memory()
        self._anew = Anew(
            task=task,
            limits=limits,
            window=self._window,
            workspace=self._workspace,
            changes=changes,
            tools=self._tools,
        )
        self.result: AgentResult | None = None

    def _opening(self, share: float) -> str:
        self.prompt = prompts.task(self.task, self.meter.limits, share)
        return self.prompt

    def run(self, begun: Callable[[], None] = lambda: None) -> AgentResult:
        """`begun` is called when the opening is known, before the first call."""
        end = AgentEnd("interrupted")
        try:
            with closing(Talk(self.model, self.system, self.specs)) as talk:
                try:
                    talk.begin(self._opening, self._window.opening)
                finally:
                    begun()
                self._workspace.open(self._progress.tree)
                self._memory = replay(talk, self._progress, self._tools)
                while True:
                    self._step(talk)
        except AgentEnd as reached:
            end = reached
        except Exception as error:
            end = AgentEnd(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.result = self._conclude(end)
        return self.result

    def _step(self, talk: Talk) -> None:
        if self._window.full(talk.tokens):
            return self._take_notes(talk)
        completion, usd = self._ask(talk, self.sampling)
        turn, tree = self._save(self._react(completion))
        turn = self._remark(turn, tree)
        if messages := turn.messages():
            talk.add(messages)
        crowded = turn.end is None and self._window.over(talk.tokens)
        anew = self._anew.begin(talk, self._memory) if crowded else None
        return self._record(turn, completion, usd, tree, anew)

    def _take_notes(self, talk: Talk) -> None:
        """A step of its own: the model writes down what it knows, and its conversation begins anew with that."""
        talk.add([UserMessage(content=later.take_notes())])
        completion, usd = self._ask(talk, self.sampling.model_copy(update={"max_tokens": self._window.notes}))
        if completion.finish_reason == "abort":
            return self._record(self._react(completion), completion, usd)
        anew = self._anew.begin(talk, self._memory, clean(completion.message.content))
        return self._record(Turn(), completion, usd, anew=anew)

    def _ask(self, talk: Talk, sampling: Sampling) -> tuple[Completion, float]:
        """The model's next answer, booked, and what it cost in USD."""
        sampling = self.meter.next_call(talk.tokens, sampling, self._window.tokens)
        self._gate()
        with self._journal.reserve(self.meter.calls, talk.tokens, sampling.max_tokens):
            completion = talk.complete(sampling, deadline=self.meter.deadline, cancel=self._cancel)
        usd = self.meter.add(completion.usage)
        # Booked before it is understood: an unusable answer is billed all the same.
        self._journal.spend(self.meter.calls - 1, completion.usage, usd, completion.seconds)
        return completion, usd

    def _record(
        self, turn: Turn, completion: Completion, usd: float, tree: str | None = None, anew: str | None = None
    ) -> None:
        self._journal.step(turn.step(self._memory.steps, completion, usd, tree, self.meter.seconds, anew))
        self._memory.steps += 1
        if turn.end:
            raise turn.end

    def _save(self, turn: Turn) -> tuple[Turn, str | None]:
        """The new tree, where there is one. What can't be saved is the model's doing: it is told, and goes on."""
        try:
            return turn, self._workspace.save()
        except NotSaved as problem:
            return turn.noted(prompts.not_saved(problem.reason, problem.detail)), None

    def _remark(self, turn: Turn, tree: str | None) -> Turn:
        """What there is to say about the way that the steps go; the end, where it was said before and in vain."""
        repeat = self._memory.acted(turn.actions, tree)
        if turn.end:
            return turn
        if repeat and repeat.again:
            return turn.ended(Stuck(later.stuck(repeat)))
        if repeat:
            turn = turn.noted(later.repeated(repeat))
        if (used := self.meter.nearly_used()) and self._memory.first("wrap_up"):
            turn = turn.noted(later.wrap_up(used))
        return turn

    def _gate(self) -> None:
        """Nothing is started past this point once the run is cancelled, its lease is lost or its time is over."""
        self._journal.checkpoint()
        if self._cancel.is_set():
            raise Cancelled
        self.meter.check_time()

    def _react(self, completion: Completion) -> Turn:
        if completion.finish_reason == "abort":
            return Turn(end=Cancelled() if self._cancel.is_set() else self.meter.time_is_over())
        calls = understand(completion, self._tools)
        problem = unusable(completion, calls)
        row = self._memory.unusable = self._memory.unusable + 1 if problem else 0
        end = FormatErrors(f"{row} in a row: {problem}") if row >= MAX_UNUSABLE else None
        if calls:
            return self._execute(calls, end).fitted(self._window.results)
        return Turn(note=problem, end=end) if problem else self._submit(completion.message.content)

    def _execute(self, calls: list[Ready | Refused], end: AgentEnd | None) -> Turn:
        """Every call gets exactly one result, also those that an end keeps from being run."""
        done = []
        for call in calls:
            end = end or self._interruption()
            if isinstance(call, Refused):
                done.append(refuse(call.call, call.problem, malformed=True))
            elif end:
                done.append(refuse(call.call, f"not run: {end.reason}"))
            else:
                if call.tool.mutates:
                    self._workspace.touch()
                done.append(run(call, self._workspace))
        return Turn(tuple(done), end=end)

    def _interruption(self) -> AgentEnd | None:
        try:
            self._gate()
        except AgentEnd as end:
            return end
        return None

    def _submit(self, summary: str) -> Turn:
        # To remarks and questions words alone can be an answer.
        if self.task.revision is None and self._workspace.unchanged and self._memory.first("nothing_changed"):
            return Turn(note=prompts.nudge("nothing_changed"))
        tree = self._workspace.tree
        if self._review and tree and not self._workspace.unchanged and self._memory.first("review"):
            patch = self._changes.patch(tree)
            return Turn(note=later.review(patch, self._changes.objections(patch), room=self._window.results))
        return Turn(end=Submitted(summary))

    def _conclude(self, end: AgentEnd) -> AgentResult:
        """The diff so far is kept at every end; what goes wrong here must not hide why it ended."""
        with suppress(Exception):
            self._workspace.save()
        problem = self._workspace.problem
        why = f": {problem.reason}" if problem else ""
        stale = f"; the last changes could not be saved{why}" if self._workspace.unsaved else ""
        submitted = isinstance(end, Submitted)
        return AgentResult(
            exit_status=end.exit_status,
            reason=("the model said that it is done" if submitted else end.reason) + stale,
            summary=clean(end.reason) if submitted else "",
            steps=self.meter.calls,
            usage=self.meter.usage,
            usd=self.meter.usd,
            seconds=self.meter.seconds,
            base_tree=self._workspace.base_tree,
            final_tree=self._workspace.tree,
        )
