"""Commands that need no service around them: the demo, and a fix of a local repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from agent.choice import MOST
from agent.protocols import Isolation
from worker import terminal
from worker.commands.base import AS_JSON, settings, try_writing
from worker.errors import ServiceError
from worker.exits import Exit


@click.command(epilog="Example: devstral-fix demo --json")
@click.option("--model", default=None, help="scripted:FILE or openai:URL#NAME; the default is the demo's own script.")
@AS_JSON
@click.option("--keep", is_flag=True, help="Keep the demo's directory (servers' data, logs, repository).")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the script as it was asked.")
def demo(model: str | None, *, as_json: bool, keep: bool, record: Path | None) -> None:
    """Run the whole way of one issue on this machine: label, queue, sandbox, evidence, pull request.

    --json prints its object as the last line.
    """
    from worker.demo.run import demo as run

    try_writing(record, "--record")
    sys.exit(run(model=model, as_json=as_json, keep=keep, record=record))


@click.command(
    epilog="Example: devstral-fix fix --repo . --issue-file issue.md --model openai:http://127.0.0.1:8000/v1#m"
)
@click.option(
    "--repo", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="A git repository."
)
@click.option("--issue-file", type=click.File(encoding="utf-8", errors="replace"), required=True, help="- for stdin.")
@click.option("--model", default=None, help="scripted:FILE or openai:URL#NAME (default: DEVSTRAL_FIX_MODEL).")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the patch here.")
@click.option("--trajectory", type=click.Path(dir_okay=False, path_type=Path), help="Keep the trajectory (JSON lines).")
@click.option("--isolation", type=click.Choice([i.value for i in Isolation]), default="basic", show_default=True)
@click.option(
    "--samples", type=click.IntRange(1, MOST), default=1, show_default=True, help="Tries, of which the best is taken."
)
@click.option("--setup/--no-setup", default=True, show_default=True, help="Install what the repository needs, first.")
@click.option("--apply", "apply_patch", is_flag=True, help="Change the repository's files as the patch says.")
@AS_JSON
def fix(
    repo: Path,
    issue_file: Any,
    model: str | None,
    output: Path | None,
    trajectory: Path | None,
    isolation: str,
    samples: int,
    *,
    setup: bool,
    apply_patch: bool,
    as_json: bool,
) -> None:
    """Fix an issue in a local git repository and print the patch; the repository stays untouched.

    The issue file's first line is the title. --apply changes the files only for a fixed or partial outcome. Only fixed
    is exit status 0. Trajectories of further tries are kept beside the first (t-2.jsonl). --json prints its object in
    place of the patch; where nothing came back it holds the `error`.
    """
    from worker import local, local_tries

    try_writing(output, "--output")
    try_writing(trajectory, "--trajectory")
    for kept in () if trajectory is None else (local_tries.kept_at(trajectory, number) for number in range(samples)):
        if kept.exists():
            raise click.BadParameter(f"{kept} exists", param_hint="--trajectory")
    title, body = _issue(issue_file)
    try:
        top = local.work_tree(repo.resolve()) if apply_patch else None
        result = local.fix(
            settings(model=model, isolation=isolation),
            repo=repo.resolve(),
            title=title,
            body=body,
            trajectory=trajectory,
            set_up=setup,
            samples=samples,
            note=lambda line: terminal.line(line, err=True),
        )
    except ServiceError as error:
        if as_json:
            terminal.data(local.failure(error))
        raise
    diff = result.patch.diff.encode("utf-8", "surrogateescape")
    written = output is not None and _written(output, diff)
    if as_json:
        terminal.data(local.summary(result))
    elif not written:
        terminal.diff(diff)
    terminal.line(f"outcome: {result.verdict.outcome.value} ({result.verdict.reason})", err=True)
    if top is not None and result.deliverable:
        local.apply_to(top, result.patch)
        terminal.line(f"applied to {top}", err=True)
    elif top is not None:
        terminal.line("not applied", err=True)
    sys.exit(Exit.DONE if result.verdict.outcome.value == "fixed" else Exit.FAILED)


def _issue(file: Any) -> tuple[str, str]:
    """(title, body)."""
    title, _, body = file.read().strip().partition("\n")
    if not title:
        raise click.BadParameter("the file is empty", param_hint="--issue-file")
    return title.lstrip("# ").strip(), body.strip()


def _written(output: Path, diff: bytes) -> bool:
    """Whether it could be: the run is paid for, so that the patch goes elsewhere if not."""
    try:
        output.write_bytes(diff)
    except OSError as error:
        terminal.line(f"devstral-fix: {output} can't be written ({error.strerror}); here is the patch", err=True)
        return False
    return True
