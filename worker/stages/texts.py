"""What people read on GitHub: the one status comment and the pull request. Each carries a marker it is found by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

from agent import noticed
from agent.evidence import Verdict
from agent.outcome import Evidence, Outcome, Patch
from agent.protocols import is_approximate
from agent.types import Usage
from worker import money
from worker.runs.commands import SLASH
from worker.runs.pausing import Pause

_NOBODY: Mapping[str, int] = MappingProxyType({})
LIMIT = 60_000  # characters; GitHub cuts at 65,536
HOW_TO_STOP = f"<sub>`{SLASH} stop`, or taking the label off, ends it.</sub>"


def status_marker(issue_number: int) -> str:
    return f"<!-- devstral-fix:status issue={issue_number} -->"


def run_marker(run_id: UUID) -> str:
    return f"<!-- devstral-fix:run {run_id} -->"


def answer_marker(of: UUID) -> str:
    """Of the answer to one remark, or of the comment that holds a run's answers."""
    return f"<!-- devstral-fix:answer {of} -->"


def checks_marker(head: str) -> str:
    """Of the comment that says that a commit's checks are left to people."""
    return f"<!-- devstral-fix:checks {head} -->"


def own_words(text: str) -> str:
    """What the agent says, shown as its own: nothing of it is markup, nobody is mentioned by it."""
    return fenced(text.strip()[:6000] or "(it left no words)")


def answers(run_id: UUID, said: Sequence[tuple[str, str, str]], *, head: str | None) -> str:
    """One comment for what was said in no thread: who, what, and the answer."""
    pushed = [f"Commit {head}."] if head is not None else []
    parts = [f"> {inline(body, 500)}\n\n@{author}:\n\n{words}" for author, body, words in said]
    return "\n\n".join([answer_marker(run_id), *parts, *pushed])[:LIMIT]


def fenced(text: str) -> str:
    """A code block that `text` can't close, whatever it holds."""
    longest = max((len(run) for run in _backtick_runs(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def _backtick_runs(text: str) -> list[str]:
    return "".join(c if c == "`" else " " for c in text).split()


def inline(text: str, limit: int = 300) -> str:
    """A stranger's or an error's text inside a sentence: one line, no markup, no mentions."""
    line = " ".join(text.split())[:limit]
    return "`" + line.replace("`", "'") + "`" if line else "(nothing)"


def status(issue_number: int, run_id: UUID | None, headline: str, details: Sequence[str] = ()) -> str:
    """The status comment: one headline, then lines."""
    parts = [status_marker(issue_number)]
    if run_id is not None:
        parts.append(run_marker(run_id))
    parts += [f"**devstral-fix**: {headline}", *details]
    return "\n\n".join(parts)[:LIMIT]


def paused(pause: Pause) -> str:
    """Why nothing happens; a person's words as code."""
    what = "" if pause.everything else " for this repository"
    return f"Paused{what} by {inline(pause.requested_by, 100)}" + (f": {inline(pause.reason)}" if pause.reason else "")


def cached(usage: Usage) -> str:
    """What of a prompt came from a cache, where that is known."""
    if not usage.cache_untold:
        return f"of which {usage.cached:,} cached"
    if usage.cache_untold == usage.prompt:
        return "how many of them cached was not told"
    return f"of which {usage.cached:,} cached, and of {usage.cache_untold:,} it was not told"


def accounting(
    usage: Usage,
    cost: tuple[Decimal, Decimal],
    *,
    calls: int,
    model: str,
    tokenizer: str,
    isolation: str,
    harness: str = "",
    others: Mapping[str, int] = _NOBODY,
) -> str:
    """The footer every result carries: what ran and what it used. A model that did not run is said so by its label.
    `others`: models that made some of the calls before, and how many each."""
    word = "would cost" if "no language model ran" in model else "cost"
    before = "".join(f", of these {count} by {other}" for other, count in others.items())
    counted = "; token counts approximate" if is_approximate(tokenizer) else ""
    return (
        f"<sub>Model: {model}. Calls: {calls}{before}. Tokens: {usage.prompt:,} in ({cached(usage)}), "
        f"{usage.completion:,} out{counted}; {word} {money.usd(*cost)}. Isolation: {isolation}.{harness}</sub>"
    )


_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "before": "base",
        "before_with_new_tests": "base + this change's tests",
        "before_again": "base, once more",
        "after": "with this change",
        "after_again": "with this change, once more",
    }
)
_FOUND: Mapping[str, str] = MappingProxyType(
    {
        "reproduced": "Failed without this change, pass with it",
        "broken": "Passed without this change, fail with it",
        "missing": "There without this change, no longer collected",
        "skipped": "Passed without this change, skipped with it",
        "new_failing": "New, and fail",
        "still_failing": "Failed without this change and still fail",
        "flaky": "End now so, now so",
    }
)


def by_test(evidence: Evidence) -> str:
    """How many tests ended how, where that is known."""
    return ", ".join(f"{count} {case.value}" for case, count in evidence.counts.items()) or "unknown"


def findings(evidence: Sequence[Evidence]) -> list[str]:
    """What the tests showed, one line each: what it means, how many, and the first of them."""
    lines = []
    for piece in evidence:
        for name, words in _FOUND.items():
            if (tests := piece.detail.tests.get(name)) is not None:
                more = ", …" if tests.total > len(tests.some) else ""
                lines.append(f"{words} ({tests.total}): {', '.join(inline(t, 200) for t in tests.some)}{more}")
        if piece.detail.held_back:
            paths = ", ".join(inline(path, 200) for path in piece.detail.held_back)
            lines.append(f"Executed as on the base, although this change touches it: {paths}")
    return lines


def notes(evidence: Sequence[Evidence]) -> list[str]:
    """Why outcomes of single tests are not known, by execution."""
    return [
        f"{_NAMES[e.stage]}: the outcome of each test is unknown: {inline(e.detail.note)}"
        for e in evidence
        if e.detail.note
    ]


def evidence_table(evidence: Sequence[Evidence]) -> str:
    """The executions as a table, what they showed, and the output of each folded below."""
    if not evidence:
        return (
            "Not verified: no test command is known for this repository (`test:` in `.devstral-fix.yml`), so nothing "
            "was run."
        )
    rows = [
        f"| {_NAMES[e.stage]} | {e.outcome.value} | {by_test(e)} | {e.returncode} | "
        f"{e.seconds:.1f} s{' (kept from an earlier run)' if e.detail.kept else ''} |"
        for e in evidence
    ]
    table = "\n".join(["| tree | tests | test by test | exit status | time |", "|---|---|---|---|---|", *rows])
    lines = "\n".join(f"- {line}" for line in [*findings(evidence), *notes(evidence)])
    folds = [
        f"<details><summary>Output: {_NAMES[e.stage]}</summary>\n\n"
        f"{fenced(e.output[-4000:] or '(no output)')}\n\n</details>"
        for e in evidence
    ]
    command = f"Run by the service in fresh sandboxes: {inline(evidence[0].command, 4000)}"
    return "\n\n".join([command, table, *([lines] if lines else []), *folds])


def verified_on(commit: str, branch: str, now: str | None) -> str:
    """Which base the evidence is of; `now`: where the base branch is."""
    of = f"Everything here is of {inline(branch, 200)} at {inline(commit[:12])}"
    if now is None:
        return f"{of}; that branch is gone."
    if now != commit:
        return f"{of}. The branch is at {inline(now[:12])} by now, and nothing was executed on that."
    return f"{of}, where it is still."


def _said(reason: str) -> str:
    """A verdict's reason. It may hold names of tests and words of the model, so nothing of it is markup."""
    return inline(reason, 2000)


def worth_a_look(patch: Patch) -> list[str]:
    """What of a change its reviewer should look at twice."""
    seen = [*noticed.weakened(patch), *noticed.reformatted(patch)]
    lines = [f"- {inline(line)}" for line in seen[:30]] + (["- …"] if len(seen) > 30 else [])
    return ["### Worth a look\n\n" + "\n".join(lines)] if lines else []


def noted(body: str, note: str) -> str:
    """A body with a note behind its first line, which is its marker; with the note already there, the same."""
    marker, _, rest = body.partition("\n")
    return body if rest.lstrip().startswith(note) else f"{marker}\n\n{note}\n\n{rest.lstrip()}"[:LIMIT]


def check_summary(*, verdict: Verdict, evidence: Sequence[Evidence], footer: str) -> str:
    """What the check run on the delivered commit shows."""
    return "\n\n".join([_said(verdict.reason), evidence_table(evidence), footer])[:LIMIT]


def commit_message(
    *, issue_title: str, issue_number: int, run_id: UUID, co_author: str | None = None, revises: bool = False
) -> str:
    subject = " ".join(issue_title.split())[:60] or "Fix"
    subject = f"As reviewed: {subject}" if revises else subject
    with_whom = "" if co_author is None else f"Co-authored-by: {co_author}\n"
    return f"{subject}\n\nRefs #{issue_number}\n\nDevstral-Fix-Run: {run_id}\n{with_whom}"


def co_author(login: str, account_id: int | None) -> str | None:
    """As GitHub knows an account in a commit without its real address; None where its id is not known."""
    return None if account_id is None else f"{login} <{account_id}+{login}@users.noreply.github.com>"


_WITHOUT = MappingProxyType(
    {
        Outcome.QUESTION: "a question, before anything is changed",
        Outcome.DUPLICATE: "this seems to be a duplicate",
        Outcome.ALREADY_FIXED: "this seems to be fixed already",
        Outcome.NOT_REPRODUCIBLE: "the problem does not show",
        Outcome.SETUP_FAILED: "the repository could not be set up",
        Outcome.REFUSED: "the change was refused",
        Outcome.ANSWERED: "answered in words",
        Outcome.UNSOLVED: "no fix was found",
    }
)


def headline(outcome: Outcome, pull_request_url: str | None) -> str:
    if pull_request_url is not None:
        return f"{outcome.value}: {pull_request_url}"
    return f"{_WITHOUT.get(outcome, 'no pull request')} ({outcome.value}; no pull request)"


def answer(
    outcome: Outcome, reason: str, *, branch: str | None, summary: str, evidence: Sequence[Evidence]
) -> list[str]:
    """What the status comment says of a result. `branch`: where a change is; without one the agent's own words are all
    that there is, shown as such, with what was executed."""
    if branch is not None:
        missing = "What is missing: " if outcome is Outcome.PARTIAL else ""
        return [f"{missing}{_said(reason)}", f"Branch {inline(branch)}"]
    # A set-up's reason is the service's own, with its marks; its log is shown beside it.
    parts = [reason if outcome is Outcome.SETUP_FAILED else _said(reason)]
    if evidence:
        parts.append(evidence_table(evidence))
    if summary.strip():
        parts.append("In the agent's own words:\n\n" + fenced(summary[:4000]))
    return parts
