"""The loop: complete, book the spend, understand, execute, observe; until the model submits or a limit ends it."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from threading import Event

from agent import prompts
from agent.actions import Ready, Refused, Turn, refuse, run, understand, unusable
from agent.errors import AgentEnd, Cancelled, FormatErrors, NotSaved, Submitted
from agent.meter import Meter
from agent.protocols import Conversation, Journal, Model, Session
from agent.resume import Progress, replay
from agent.tools import default_tools
from agent.tools.base import spec
from agent.tools.text import clean
from agent.types import AgentResult, Completion, Limits, Price, Sampling, Task
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
        progress: Progress = Progress(),  # noqa: B008  # a value: frozen
    ) -> None:
        self.model = model
        self.task = task
        self._journal = journal
        self.sampling = sampling
        self._cancel = cancel
        self.meter = Meter(limits, price, progress.used)
        self._progress = progress
        self._workspace = Workspace(session, limits.command_seconds, self.meter.deadline, cancel)
        self._tools = default_tools(limits)
        self.specs = tuple(map(spec, self._tools))
        self.system = prompts.system()
        self.prompt = prompts.task(task, limits)
        self.result: AgentResult | None = None

    def run(self) -> AgentResult:
        end = AgentEnd("interrupted")
        try:
            with closing(self.model.open(self.system, self.specs)) as conversation:
                self._workspace.open(self._progress.tree)
                self._memory = replay(conversation, self.prompt, self._progress, self._tools)
                while True:
                    self._step(conversation)
        except AgentEnd as reached:
            end = reached
        except Exception as error:
            end = AgentEnd(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.result = self._conclude(end)
        return self.result

    def _step(self, conversation: Conversation) -> None:
        sampling = self.meter.next_call(conversation.tokens, self.sampling)
        self._gate()
        with self._journal.reserve(self.meter.calls, conversation.tokens, sampling.max_tokens):
            completion = conversation.complete(sampling, deadline=self.meter.deadline, cancel=self._cancel)
        usd = self.meter.add(completion.usage)
        # Booked before it is understood: an unusable answer is billed all the same.
        self._journal.spend(self.meter.calls - 1, completion.usage, usd, completion.seconds)
        turn, tree = self._save(self._react(completion))
        self._journal.step(turn.step(self._memory.steps, completion, usd, tree, self.meter.seconds))
        self._memory.steps += 1
        if messages := turn.messages():
            conversation.add(messages)
        if turn.end:
            raise turn.end

    def _save(self, turn: Turn) -> tuple[Turn, str | None]:
        """The new tree, where there is one. What can't be saved is the model's doing: it is told, and goes on."""
        try:
            return turn, self._workspace.save()
        except NotSaved as problem:
            told = prompts.not_saved(problem.reason, problem.detail)
            return replace(turn, note="\n\n".join(filter(None, (turn.note, told)))), None

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
            return self._execute(calls, end)
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
        if self._workspace.unchanged and not self._memory.nudged:
            self._memory.nudged = True
            return Turn(note=prompts.nudge("nothing_changed"))
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
