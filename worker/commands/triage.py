"""`devstral-fix triage`: which issues of a backlog are worth an attempt, and what that may cost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker import terminal
from worker.commands.base import AS_JSON, NotDone, settings, try_writing
from worker.exits import Exit

if TYPE_CHECKING:
    from agent.triage.asking import Backlog
    from agent.triage.backlog import BacklogIssue
    from worker.settings import Settings
    from worker.triage.looking import Looked, Looking
    from worker.triage.notebook import Kept

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: gh issue list --json number,title,body,labels -L 500 >a.json; devstral-fix triage a.json"
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--repository", default=None, help="Its name, for the model and the report (default: the file's).")
@click.option(
    "--repo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The repository, for its files' names.",
)
@click.option("--model", default=None, help="openai:URL#NAME or vllm:PATH (default: DEVSTRAL_FIX_MODEL).")
@click.option("--label", "labels", multiple=True, help="Only issues with this label; several: with all of them.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Only issues that changed on this day or later.")
@click.option("--limit", type=click.IntRange(min=1), help="The first N of the file.")
@click.option("--budget-usd", type=click.FloatRange(min=0), help="What the questions may cost, those kept included.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=16, show_default=True, help="Questions at a time.")
@click.option("--keep", type=FILE, help="Answers are kept here as they come; the same command goes on with them.")
@click.option("--csv", "csv_file", type=FILE, help="Write the ranked issues here, as CSV.")
@click.option("--markdown", type=FILE, help="Write a report here, as Markdown.")
@click.option("--dry-run", is_flag=True, help="Ask nothing: say what would be asked, and at which length.")
@AS_JSON
def triage(
    file: Path,
    repository: str | None,
    repo: Path | None,
    model: str | None,
    labels: tuple[str, ...],
    since: datetime | None,
    limit: int | None,
    budget_usd: float | None,
    concurrency: int,
    keep: Path | None,
    csv_file: Path | None,
    markdown: Path | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Rank the issues of a file: JSON as GitHub or `gh issue list --json` writes it, or CSV.

    Each issue is one short question to the model. Reports of the same are found by their words and asked about once.
    Only a triage in which every issue was asked is exit status 0. --json prints one object in place of the table.
    """
    from agent.triage.asking import Backlog
    from worker import local
    from worker.triage import report
    from worker.triage.files import read_issues

    for path, option in ((csv_file, "--csv"), (markdown, "--markdown")):
        try_writing(path, option)
    issues = _chosen(read_issues(file), labels, since and since.date(), limit)
    if not issues:
        raise NotDone(f"{file} holds no open issue that is asked for")
    backlog = Backlog(
        repository=repository or file.stem,
        files=None if repo is None else local.tracked_files(repo.resolve()),
        titles={issue.number: issue.title for issue in issues},
    )
    here = settings(model=model)
    if dry_run:
        _show_plan(here, backlog, issues, as_json=as_json)
        return
    looked, label = _look(here, backlog, issues, keep, budget_usd, concurrency)
    each = _forecast(here)
    if csv_file is not None:
        csv_file.write_text(report.as_csv(looked.issues), encoding="utf-8")
    if markdown is not None:
        text = report.as_markdown(looked, each, repository=backlog.repository, model=label)
        markdown.write_text(text, encoding="utf-8")
    if as_json:
        terminal.data(report.data(looked, each, repository=backlog.repository, model=label))
    else:
        for line in (*report.table(looked.issues), "", *report.summary(looked, each)):
            terminal.line(line)
    sys.exit(Exit.DONE if looked.stopped is None else Exit.FAILED)


def _chosen(
    issues: Sequence[BacklogIssue], labels: Sequence[str], since: date | None, limit: int | None
) -> list[BacklogIssue]:
    """An issue whose last change isn't known counts as changed."""
    wanted = {label.casefold() for label in labels}
    start = None if since is None else datetime(since.year, since.month, since.day, tzinfo=UTC)

    def fits(issue: BacklogIssue) -> bool:
        changed = issue.updated_at or issue.created_at
        if changed is not None and changed.tzinfo is None:
            changed = changed.replace(tzinfo=UTC)
        new = start is None or changed is None or changed >= start
        return new and wanted <= {label.casefold() for label in issue.labels}

    return [issue for issue in issues if fits(issue)][:limit]


def _look(
    here: Settings,
    backlog: Backlog,
    issues: Sequence[BacklogIssue],
    keep: Path | None,
    budget: float | None,
    concurrency: int,
) -> tuple[Looked, str]:
    from agent.protocols import AsksBeside
    from agent.triage.asking import prompt_hash
    from worker import compose
    from worker.triage.looking import Looking
    from worker.triage.notebook import Forgetful, Notebook

    with closing(compose.make_model(here)) as model:
        terminal.line(f"{len(issues)} issues; {model.label}", err=True)
        notebook = None
        if keep is not None:
            notebook = Notebook(keep, repository=backlog.repository, model=model.label, prompt=prompt_hash())
        kept: Kept = notebook or Forgetful()
        looking = Looking(
            opened=model.beside if isinstance(model, AsksBeside) else model.open,
            backlog=backlog,
            kept=kept,
            price=here.prices,
            budget=budget,
            concurrency=concurrency,
        )
        try:
            with _stopped_by_signals(looking), _progress(len(issues)) as told:
                looking.told = told
                return looking.through(issues), model.label
        finally:
            if notebook is not None:
                notebook.close()


@contextmanager
def _stopped_by_signals(looking: Looking) -> Iterator[None]:
    """Ctrl-C ends the questions under way and keeps what was answered; a second one ends the command."""

    def stop(number: int, frame: Any) -> None:  # noqa: ARG001
        looking.cancel.set()
        signal.signal(number, before[signal.Signals(number)])

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Any], None]]:
    """On a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("asking", total=total)
        yield lambda _: progress.advance(task)


def _forecast(here: Settings) -> Any:
    """Without the service's history: a file is looked through where no database may be."""
    from agent.triage.forecast import forecast

    return forecast((), here.prices)


def _show_plan(here: Settings, backlog: Backlog, issues: Sequence[BacklogIssue], *, as_json: bool) -> None:
    from agent.tokens import TokenCounter
    from agent.triage.asking import question, system
    from agent.triage.assessment import ASSESS
    from agent.triage.similarity import groups, similar
    from agent.types import Usage, UserMessage
    from worker import money
    from worker.triage.looking import MAX_TOKENS

    counter = TokenCounter(here.tekken_file)
    alike = similar(issues)
    later = {number for group in groups(issues, alike) for number in group[1:]}
    prompt = 0
    for issue in issues:
        if issue.number not in later:
            history = counter.open(system(), (ASSESS,))
            others = [one.number for one in alike[issue.number]]
            history.add(UserMessage(content=question(backlog, issue, others)))
            prompt += len(history)
    asked = len(issues) - len(later)
    most = here.prices.call(Usage(prompt=prompt, completion=asked * MAX_TOKENS))[1]
    values = {"issues": len(issues), "asked": asked, "prompt_tokens": prompt, "usd_at_most": round(most, 6)}
    if as_json:
        terminal.data(values)
    else:
        terminal.line(
            f"{asked} questions about {len(issues)} issues: {prompt:,} prompt tokens, {money.usd(most)} at most"
        )
