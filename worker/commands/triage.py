"""`devstral-fix triage`: which issues of a backlog are worth an attempt, and what that may cost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from worker import terminal
from worker.commands.base import AS_JSON, NotDone, in_transaction, settings, try_writing
from worker.exits import Exit

if TYPE_CHECKING:
    from agent.triage.asking import Backlog
    from agent.triage.backlog import BacklogIssue
    from agent.triage.forecast import Forecast
    from worker.settings import Settings
    from worker.triage.looking import Looked
    from worker.triage.notebook import Notebook

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example: devstral-fix triage acme/shop --label bug --keep answers --markdown backlog.md")
@click.argument("source", metavar="OWNER/REPO|FILE")
@click.option("--repository", default=None, help="Its name, for the model and the report (default: the file's).")
@click.option(
    "--repo",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The repository, for its files' names.",
)
@click.option("--model", default=None, help="openai:URL#NAME or vllm:PATH (default: DEVSTRAL_FIX_MODEL).")
@click.option("--label", "labels", multiple=True, help="Only issues with this label; several: with all of them.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Only issues that changed on this day or later.")
@click.option("--limit", type=click.IntRange(min=1), help="The first N of them; of a repository, the oldest.")
@click.option("--budget-usd", type=click.FloatRange(min=0), help="What the questions may cost, those kept included.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=16, show_default=True, help="Questions at a time.")
@click.option("--keep", type=FILE, help="Answers are kept here as they come; the same command goes on with them.")
@click.option("--csv", "csv_file", type=FILE, help="Write the ranked issues here, as CSV.")
@click.option("--markdown", type=FILE, help="Write a report here, as Markdown.")
@click.option("--dry-run", is_flag=True, help="Ask nothing: say what would be asked, and at which length.")
@AS_JSON
def triage(
    source: str,
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
    """Rank the open issues of a repository on GitHub, or of a file: JSON as GitHub or `gh` writes it, or CSV.

    Each issue is one short question to the model. Reports of the same are found by their words and asked about once.
    Only a triage in which every issue was asked is exit status 0. --json prints one object in place of the table.
    """
    from worker.triage import report

    for path, option in ((csv_file, "--csv"), (markdown, "--markdown")):
        try_writing(path, option)
    wanted = Wanted(source, labels, None if since is None else since.replace(tzinfo=UTC), limit)
    here = settings(model=model)
    if dry_run:
        issues = wanted.issues(here, None, Event())
        _show_plan(here, _backlog(wanted, repository, repo, issues), issues, as_json=as_json)
        return
    looked, backlog, label = _look(here, wanted, repository, repo, keep, budget_usd, concurrency)
    each = _forecast(here, backlog.repository)
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


@dataclass(frozen=True)
class Wanted:
    """Which issues: `source` is a file, or a repository on GitHub."""

    source: str
    labels: Sequence[str]
    since: datetime | None
    limit: int | None

    @property
    def file(self) -> Path | None:
        from worker.runs.asked import is_repository

        path = Path(self.source)
        if path.is_file():
            return path
        if not is_repository(self.source):
            raise click.BadParameter(
                f"{self.source!r} is neither a file nor OWNER/REPO, such as acme/shop", param_hint="OWNER/REPO|FILE"
            )
        return None

    def issues(self, here: Settings, notebook: Notebook | None, cancel: Event) -> list[BacklogIssue]:
        """NotDone where there is none."""
        found = self._listed(here, notebook, cancel) if self.file is None else self._read(self.file)
        if not found and not cancel.is_set():
            raise NotDone(f"{self.source} holds no open issue that is asked for")
        return found

    def _listed(self, here: Settings, notebook: Notebook | None, cancel: Event) -> list[BacklogIssue]:
        from worker import compose
        from worker.triage.listing import listed

        return listed(
            compose.make_forges(here).open(self.source, None),
            notebook,
            labels=self.labels,
            since=self.since,
            limit=self.limit,
            now=lambda: datetime.now(UTC),
            cancel=cancel,
        )

    def _read(self, file: Path) -> list[BacklogIssue]:
        from worker.triage.files import read_issues

        wanted = {label.casefold() for label in self.labels}

        def fits(issue: BacklogIssue) -> bool:
            """One whose last change isn't known counts as changed."""
            changed = issue.updated_at or issue.created_at
            if changed is not None and changed.tzinfo is None:
                changed = changed.replace(tzinfo=UTC)
            new = self.since is None or changed is None or changed >= self.since
            return new and wanted <= {label.casefold() for label in issue.labels}

        return [issue for issue in read_issues(file) if fits(issue)][: self.limit]


def _backlog(wanted: Wanted, repository: str | None, repo: Path | None, issues: Sequence[BacklogIssue]) -> Backlog:
    from agent.triage.asking import Backlog
    from worker import local

    return Backlog(
        repository=repository or (wanted.source if wanted.file is None else wanted.file.stem),
        files=None if repo is None else local.tracked_files(repo.resolve()),
        titles={issue.number: issue.title for issue in issues},
    )


def _look(
    here: Settings,
    wanted: Wanted,
    repository: str | None,
    repo: Path | None,
    keep: Path | None,
    budget: float | None,
    concurrency: int,
) -> tuple[Looked, Backlog, str]:
    from agent.protocols import AsksBeside
    from agent.triage.asking import prompt_hash
    from worker import compose
    from worker.triage.looking import Looking
    from worker.triage.notebook import Forgetful, Notebook

    name = _backlog(wanted, repository, None, ()).repository
    if wanted.file is not None:
        wanted.issues(here, None, Event())  # what is wrong with a file is said before a model starts
    with ExitStack() as stack:
        model = stack.enter_context(closing(compose.make_model(here)))
        notebook = None
        if keep is not None:
            opened = Notebook(keep, repository=name, model=model.label, prompt=prompt_hash())
            notebook = stack.enter_context(opened)
        cancel = stack.enter_context(_stopped_by_signals())
        issues = wanted.issues(here, notebook, cancel)
        terminal.line(f"{len(issues)} issues; {model.label}", err=True)
        backlog = _backlog(wanted, repository, repo, issues)
        looking = Looking(
            opened=model.beside if isinstance(model, AsksBeside) else model.open,
            backlog=backlog,
            kept=notebook or Forgetful(),
            price=here.prices,
            budget=budget,
            concurrency=concurrency,
            cancel=cancel,
            told=stack.enter_context(_progress(len(issues))),
        )
        return looking.through(issues), backlog, model.label


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """Set by Ctrl-C, which ends the questions under way and keeps what was answered; a second one ends the command."""
    cancel = Event()

    def stop(number: int, frame: Any) -> None:  # noqa: ARG001
        cancel.set()
        signal.signal(number, before[signal.Signals(number)])

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield cancel
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


def _forecast(here: Settings, repository: str) -> Forecast:
    """From the ledger, where there is one; a triage needs none."""
    from agent.triage.forecast import forecast
    from worker.errors import SettingsError
    from worker.runs import history
    from worker.store.session import DatabaseUnavailable

    try:
        past, where = in_transaction(lambda session: history.fixes(session, repository))
    except (SettingsError, DatabaseUnavailable) as error:
        if here.database_url is not None:
            terminal.line(f"the ledger can't be asked: {error}", err=True)
        past, where = (), ""
    return forecast(past, here.prices, where)


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
