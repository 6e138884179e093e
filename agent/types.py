"""The words of the agent: messages, usage, prices, limits, steps, and how a trajectory ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.generated import GeneratedIds


class Frozen(BaseModel):
    """A value: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Frozen):
    """Tokens of one model call, or a sum of calls. `cached` is the part of `prompt` that was read from a cache, and
    `cache_untold` the part (whole prompts) of which that is not known: their server doesn't tell."""

    prompt: int = Field(default=0, ge=0)
    cached: int = Field(default=0, ge=0)
    cache_untold: int = Field(default=0, ge=0)
    completion: int = Field(default=0, ge=0)
    gpu_seconds: float | None = Field(default=None, ge=0, description="its share of GPU time, where that is known")

    @model_validator(mode="after")
    def _cached_is_part_of_prompt(self) -> Usage:
        if self.cached + self.cache_untold > self.prompt:
            untold = f", {self.cache_untold} untold" if self.cache_untold else ""
            raise ValueError(f"cached tokens ({self.cached}{untold}) exceed prompt tokens ({self.prompt})")
        return self

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            cache_untold=self.cache_untold + other.cache_untold,
            completion=self.completion + other.completion,
            gpu_seconds=(
                None
                if self.gpu_seconds is None and other.gpu_seconds is None
                else (self.gpu_seconds or 0.0) + (other.gpu_seconds or 0.0)
            ),
        )


class ToolCall(Frozen):
    """A call as the model wrote it; `arguments` is the JSON text, unparsed, since it may be malformed."""

    id: str
    name: str
    arguments: str


class UserMessage(Frozen):
    role: Literal["user"] = "user"
    content: str


class ToolMessage(Frozen):
    role: Literal["tool"] = "tool"
    tool_call_id: str
    name: str
    content: str


class AssistantMessage(Frozen):
    """What the model answered. `raw` keeps the unparsed text where a server gave it and parsing failed."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    raw: str | None = None


Message = Annotated[UserMessage | ToolMessage | AssistantMessage, Field(discriminator="role")]
Input = UserMessage | ToolMessage


class ToolSpec(Frozen):
    """A tool as offered to the model; `parameters` is a JSON schema object."""

    name: str
    description: str
    parameters: dict[str, Any]


FinishReason = Literal["stop", "tool_calls", "length", "abort"]


class CallTimes(Frozen):
    """Where a call's time went, in seconds, as an engine in this process tells it. Servers do not."""

    turn: float = Field(ge=0, description="until the engine's memory had room for it, before it was submitted")
    queued: float = Field(ge=0, description="in the engine, before it was first scheduled")
    first: float = Field(ge=0, description="from submission to the first token, `queued` included; 0: there was none")
    decode: float = Field(ge=0, description="from the first token to the last")
    again: int = Field(default=0, ge=0, description="prompt tokens computed again, of which a cache had been made")


class Completion(Frozen):
    """One model call's result. `seconds` is wall time at the caller. `repairs`: what had to be mended to understand the
    answer, by kind; None where it was not read (it was aborted). `generated`: the answer as the history has it, where
    that is ids."""

    message: AssistantMessage
    usage: Usage
    finish_reason: FinishReason
    seconds: float = Field(ge=0)
    times: CallTimes | None = None
    repairs: tuple[str, ...] | None = None
    generated: GeneratedIds | None = None


class Sampling(Frozen):
    temperature: float = 0.2
    max_tokens: int = Field(default=4096, gt=0, description="completion tokens of one call")


class Rates(Frozen):
    """USD per million tokens; `cached` is None where no price for cached input is known."""

    prompt: float = Field(default=0.0, ge=0)
    cached: float | None = Field(default=None, ge=0)
    completion: float = Field(default=0.0, ge=0)

    def range(self, usage: Usage) -> tuple[float, float]:
        """USD of `usage`: what it costs at least and at most. Without a price for cached input the truth lies between
        cached tokens that cost nothing and ones that cost the full price; with one, both are the same. Of tokens of
        which nobody tells whether they were cached, it lies between all of them and none."""
        known = usage.prompt - usage.cached - usage.cache_untold
        fixed = known * self.prompt + usage.completion * self.completion
        least, most = (0.0, self.prompt) if self.cached is None else (self.cached, self.cached)
        untold = min(least, self.prompt), max(most, self.prompt)
        return (
            (fixed + usage.cached * least + usage.cache_untold * untold[0]) / 1_000_000,
            (fixed + usage.cached * most + usage.cache_untold * untold[1]) / 1_000_000,
        )


class Tier(Rates):
    """The rates of a call whose prompt has more than `above` tokens."""

    above: int = Field(gt=0)


class Price(Rates):
    """What a call costs: by its tokens, at rates that may depend on the size of its prompt; or, where GPU time has a
    price and the call's share of it is known, by that alone."""

    tiers: tuple[Tier, ...] = ()
    gpu_hour: float | None = Field(default=None, ge=0, description="USD")

    @model_validator(mode="after")
    def _tiers_ascend(self) -> Price:
        borders = [tier.above for tier in self.tiers]
        if borders != sorted(set(borders)):
            raise ValueError("tiers must be in ascending order of `above`")
        return self

    def rates(self, prompt_tokens: int) -> Rates:
        """The rates of one call with a prompt of that many tokens."""
        return next((tier for tier in reversed(self.tiers) if prompt_tokens > tier.above), self)

    def call(self, usage: Usage) -> tuple[float, float]:
        """USD of one call, at least and at most."""
        if self.gpu_hour is not None and usage.gpu_seconds is not None:
            cost = usage.gpu_seconds * self.gpu_hour / 3600
            return cost, cost
        return self.rates(usage.prompt).range(usage)

    def cost(self, usage: Usage) -> float:
        """USD of one call; cached tokens without a price of their own cost the full prompt price."""
        return self.call(usage)[1]

    def worst(self, prompt_tokens: int, max_tokens: int) -> float:
        """USD that a call with this prompt and at most so long an answer can cost: nothing of it comes from a cache."""
        return self.cost(Usage(prompt=prompt_tokens, completion=max_tokens))


class Limits(Frozen):
    """What one trajectory may spend. Whichever is reached first ends it, and the diff so far is kept."""

    steps: int = Field(default=100, gt=0)
    tokens: int = Field(default=6_000_000, gt=0, description="prompt + completion tokens over all calls")
    context_tokens: int = Field(default=32_768, gt=0, description="the model's window: prompt + completion of a call")
    wall_seconds: float = Field(default=3600.0, gt=0)
    usd: float = Field(default=3.0, gt=0)
    command_seconds: float = Field(default=300.0, gt=0, description="wall time of one sandboxed command")

    def in_window(self, window: int | None) -> Limits:
        """The same for a model whose window is known to be that many tokens; None: it is not known."""
        tokens = self.context_tokens if window is None else min(window, self.context_tokens)
        return self.model_copy(update={"context_tokens": tokens})


class Used(Frozen):
    """What earlier attempts have used of a trajectory's limits. `calls` counts also those whose step was lost."""

    calls: int = Field(default=0, ge=0)
    usage: Usage = Usage()
    usd: float = Field(default=0.0, ge=0)
    seconds: float = Field(default=0.0, ge=0)


class Action(Frozen):
    """One tool call as executed, with what the model was shown of it and how it ended."""

    call: ToolCall
    observation: str
    ok: bool
    malformed: bool = Field(default=False, description="it could not be run as it was written")
    timed_out: bool = Field(default=False, description="its command did not end in its time")
    seconds: float = Field(ge=0)


class ExitStatus(StrEnum):
    """How the agent ended. Anything but `submitted` still keeps the diff so far."""

    SUBMITTED = "submitted"
    LIMITS_EXCEEDED = "limits_exceeded"
    FORMAT_ERRORS = "format_errors"
    STUCK = "stuck"
    CANCELLED = "cancelled"
    ERROR = "error"


class Step(Frozen):
    """One turn: the model's answer, what was executed for it, and the workspace's tree id when it changed.

    `note` is what the model was told beside the results of its calls (a nudge, or what was wrong with its answer).
    The fields from `answer` on are what another worker needs to go on after it; a step without `answer` can't be gone
    on from. `times` and `repairs` are those of the call (see `Completion`).
    """

    index: int = Field(ge=0)
    thought: str
    actions: tuple[Action, ...]
    usage: Usage
    usd: float
    model_seconds: float
    times: CallTimes | None = None
    repairs: tuple[str, ...] | None = None
    tree: str | None = None
    note: str = ""
    answer: AssistantMessage | None = Field(default=None, description="exactly as it was generated")
    generated: GeneratedIds | None = None
    finish_reason: FinishReason = "stop"
    elapsed: float = Field(default=0.0, ge=0, description="seconds of the trajectory so far")
    exit_status: ExitStatus | None = Field(default=None, description="set where the trajectory ended with this step")
    exit_reason: str = ""
    compacted: str | None = Field(
        default=None, description="set where the conversation began anew after this step: its first user message"
    )

    @property
    def malformed(self) -> int:
        """Calls that could not be understood: refused ones, and an answer that spells a call and holds none."""
        spelled = self.answer is not None and self.answer.raw is not None and not self.answer.tool_calls
        unread = spelled and self.finish_reason != "abort"
        return sum(action.malformed for action in self.actions) + unread


class AgentResult(Frozen):
    """How a trajectory ended and what it cost. `final_tree` is the last tree that is known, whatever the end."""

    exit_status: ExitStatus
    reason: str
    summary: str = Field(default="", description="the model's closing words, where it submitted")
    steps: int = Field(ge=0)
    usage: Usage
    usd: float
    seconds: float = Field(ge=0)
    base_tree: str | None = Field(default=None, description="the workspace's tree before the first step")
    final_tree: str | None = None

    @property
    def changed(self) -> bool:
        return self.final_tree != self.base_tree


class Remark(Frozen):
    """What a person with rights on the repository says about a pull request of ours. `path` and `line`: where, if it is
    about a place; `hunk`: the diff there, as the forge shows it."""

    number: int
    author: str
    body: str
    path: str | None = None
    line: int | None = None
    hunk: str = ""


class Revision(Frozen):
    """An issue that was worked on before. With `remarks` the change is to be revised; with a `question` it is to be
    answered in words. `diff`: the change so far, against the base."""

    starts_at: str = Field(description="commit id of the change so far, where the work begins")
    diff: str
    files: int
    remarks: tuple[Remark, ...] = ()
    question: str | None = None


class Task(Frozen):
    """What the agent is asked to do. All of it is data from strangers, except `instructions` (base branch)."""

    repository: str
    issue_number: int | None
    title: str
    body: str
    base_commit: str
    test_command: str | None = None
    instructions: str | None = None
    files: tuple[str, ...] = Field(default=(), description="paths at the base commit; the prompt shows a short map")
    revision: Revision | None = None

    @property
    def starts_at(self) -> str:
        """The commit that the workspace is opened at."""
        return self.base_commit if self.revision is None else self.revision.starts_at
