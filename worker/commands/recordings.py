"""Commands about recorded trajectories, ours and other harnesses': `replay` and `inspect`. Neither asks a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from agent.protocols import Isolation
from worker import terminal
from worker.commands.base import AS_JSON, NotDone, brief, in_transaction, settings
from worker.errors import SettingsError
from worker.exits import Exit
from worker.table import aligned

if TYPE_CHECKING:
    from agent.recording import Moment, Recording


@click.command(epilog="Example: devstral-fix replay run.jsonl --base ~/src/shop")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--base", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A git repository (its HEAD, or the recorded base commit where it has it) or a directory of files.",
)  # fmt: skip
@click.option("--isolation", type=click.Choice([i.value for i in Isolation]), default="basic", show_default=True)
@AS_JSON
def replay(file: Path, base: Path | None, isolation: str, *, as_json: bool) -> None:
    """Do the steps of a recorded trajectory again, in a fresh sandbox and without a model.

    Every difference is classified: ours, environment, time or order. Exit status 1 where one is ours, or the replay
    had to stop. Without --base it starts from an empty workspace.
    """
    from worker.replay.local import replay_file
    from worker.replay.run import summary

    results = []
    for recording in _loaded(file):
        done = replay_file(settings(isolation=isolation), recording, base)
        results.append(done)
        if as_json:
            terminal.data({"recorded": True, "file": str(file), **summary(done)})
        else:
            for line in _told(recording, summary(done)):
                terminal.line(line)
    sys.exit(Exit.FAILED if any(done.ours or done.stopped for done in results) else Exit.DONE)


@click.command(epilog="Example: devstral-fix inspect 01990000-0000-7000-8000-000000000000 --step 3")
@click.argument("source", metavar="RUN|FILE")
@click.option("--step", type=click.IntRange(min=1), help="This step alone, in full.")
@click.option("--recording", "number", type=click.IntRange(min=1), default=1, help="Which one, where FILE has several.")
@AS_JSON
def inspect(source: str, step: int | None, number: int, *, as_json: bool) -> None:
    """Browse the steps of a run, or of a trajectory's file: one of ours or of another harness.

    On a terminal it asks for the next step to show; elsewhere it prints the list, or what --step names. --json prints
    the whole recording, which `replay` takes as a file.
    """
    recording = _found(source, number)
    if step is not None and step > len(recording.steps):
        raise click.BadParameter(f"there are {len(recording.steps)} steps", param_hint="--step")
    if as_json:
        shown = recording.model_dump(mode="json")
        terminal.data(shown if step is None else shown["steps"][step - 1])
    elif step is not None:
        _show(recording, step)
    else:
        _browse(recording)


def _found(source: str, number: int) -> Recording:
    if Path(source).is_file():
        return _named(Path(source), number)
    try:
        run_id = UUID(source)
    except ValueError:
        raise NotDone(f"{source} is neither a file nor the id of a run") from None
    from worker.runs.recorded import recording

    found: Recording | None = in_transaction(lambda session: recording(session, run_id))
    if found is None:
        raise NotDone(f"there is no run {run_id}")
    return found


def _browse(recording: Recording) -> None:
    for line in overview(recording):
        terminal.line(line)
    at = 0
    while sys.stdin.isatty() and sys.stdout.isatty() and recording.steps:
        asked = click.prompt("step (Enter: the next, q: leave)", default="", show_default=False).strip()
        if asked in ("q", "quit"):
            return
        at = int(asked) if asked.isdecimal() else at + 1
        if not 1 <= at <= len(recording.steps):
            return
        _show(recording, at)


def overview(recording: Recording) -> list[str]:
    """What it is, and a line for each step."""
    totals = recording.totals
    facts = {
        "recorded by": f"{recording.harness.value} ({recording.version}), for a {recording.purpose}",
        "task": brief(recording.task),
        "instance": recording.instance_id or recording.repository,
        "base": recording.base_commit,
        "model": recording.model,
        "prompt": recording.prompt_hash,
        "tokens": f"{_known(totals.tokens.prompt)} in ({_known(totals.tokens.cached)} cached), "
        f"{_known(totals.tokens.completion)} out",
        "cost": "not recorded" if totals.usd is None else f"${totals.usd:.4f}",
        "ended": recording.exit_status or "not recorded",
        "patch": "none" if recording.patch is None else f"{recording.patch.count(chr(10))} lines",
    }
    lines = [f"{name:12}{value if value is not None else 'not recorded'}" for name, value in facts.items()]
    lines += [f"{'note':12}{note}" for note in recording.notes]
    rows = [[str(step.index + 1), step.act.tool, brief(_asked(step)), _result(step)] for step in recording.steps]
    return [*lines, *aligned(["step", "tool", "what", "result"], rows)]


def _show(recording: Recording, number: int) -> None:
    step = recording.steps[number - 1]
    terminal.line(f"step {number} of {len(recording.steps)}: {step.act.tool} ({_result(step)})")
    if step.call is not None:
        call = recording.calls[step.call] if step.call < len(recording.calls) else None
        if call is not None:
            cost = "cost not recorded" if call.usd is None else f"${call.usd:.6f}"
            tokens = f"{_known(call.tokens.prompt)} in, {_known(call.tokens.completion)} out"
            terminal.line(f"call {step.call + 1}: {tokens}, {cost}")
    for heading, text in (
        ("thought", step.thought),
        ("problem", step.act.problem or ""),
        *((name, str(value)) for name, value in step.act.arguments.items()),
        ("result", step.observed.text if step.observed else "not recorded"),
    ):
        if text:
            terminal.line(f"--- {heading}")
            terminal.text(text)


def _asked(step: Moment) -> str:
    return " ".join(str(value) for value in step.act.arguments.values()) or step.thought


def _result(step: Moment) -> str:
    if step.act.problem:
        return "not understood"
    if step.observed is None:
        return "not recorded"
    if step.observed.refused:
        return "refused"
    return "" if step.observed.exit_code is None else f"exit {step.observed.exit_code}"


def _known(value: Any) -> str:
    return "?" if value is None else str(value)


def _told(recording: Recording, data: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in data["differences"].items())
    lines = [
        f"replay of a recording by {recording.harness.value}; no model ran",
        f"{data['steps']} steps: {data['same']} the same, {data['not_compared']} not compared; different: {kinds}",
        *(f"base      {b['path']}: {'exact' if b['base_exact'] else 'another file than recorded'}"
          for b in data["base"] if b["base_exact"] is not None),
        f"patch     {data['patch']}",
    ]  # fmt: skip
    if data["stopped"]:
        lines.append(f"stopped   {data['stopped']}")
    for detail in data["details"]:
        words = "; ".join(f"{d['kind']}: {d['why']}" for d in detail["differences"])
        said = "; ".join(filter(None, (words, detail["note"])))
        lines.append(f"step {detail['step'] + 1:<4} {detail['tool']}: {said}")
    return lines


def _loaded(file: Path) -> tuple[Recording, ...]:
    from agent.imports import NotRecorded, load

    try:
        return load(file)
    except (NotRecorded, OSError) as error:
        raise SettingsError(str(error)) from error


def _named(file: Path, number: int) -> Recording:
    found = _loaded(file)
    if number > len(found):
        raise SettingsError(f"{file} holds {len(found)} recordings; --recording {number} is none of them")
    return found[number - 1]
