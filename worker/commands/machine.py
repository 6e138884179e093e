"""Commands about this machine: what it offers, what it keeps."""

from __future__ import annotations

import sys

import click

from agent.protocols import Isolation
from worker import terminal
from worker.commands.base import AS_JSON, located, settings, show_done
from worker.exits import Exit


@click.command(epilog="Example: devstral-fix doctor --isolation strict --json | jq '.isolation[] | select(.mend)'")
@click.option(
    "--isolation", type=click.Choice([i.value for i in Isolation]), default=None, help="Default: the setting."
)
@click.option(
    "--model", "of_model", is_flag=True, help="Ask the configured model questions with known answers instead."
)
@AS_JSON
def doctor(isolation: str | None, *, of_model: bool, as_json: bool) -> None:
    """Say what isolation this machine offers, what is missing, and what mends it.

    Done (0) when the chosen isolation can be had. The servers of an `up` that runs here are found by themselves.
    With --model: done when the model answers every question right; a vllm: model's engine is started for it.
    """
    from dataclasses import asdict

    from worker.doctor import judge, lines
    from worker.examine import examine

    if of_model:
        if isolation is not None:
            raise click.UsageError("--isolation is about the machine, --model about the model: give one of them")
        sys.exit(Exit.DONE if _sane(as_json=as_json) else Exit.FAILED)
    chosen = located(isolation=isolation)
    report = judge(examine(chosen), chosen.isolation)
    if as_json:
        terminal.data({**asdict(report), "fit": report.fit})
    else:
        for line in lines(report):
            terminal.line(line)
    sys.exit(Exit.DONE if report.fit else Exit.FAILED)


def _sane(*, as_json: bool) -> bool:
    """Each question is told of as it was answered: a large model takes its time."""
    from contextlib import closing

    from worker import compose
    from worker.sanity import ask

    here = settings()

    def tell(result: ask.Result) -> None:
        for line in () if as_json else ask.lines(result):
            terminal.line(line)

    with closing(compose.make_model(here)) as model:
        if not as_json:
            terminal.line(f"model: {model.label}")
        window = compose.limits(here).in_window(model.window).context_tokens
        results = ask.examine(model, window=window, told=tell)
        if as_json:
            terminal.data({**ask.record(model, results), "lacking": list(model.lacking)})
        else:
            terminal.line(ask.summary(results))
            for words in model.lacking:
                terminal.line(f"note: {words}")
    return ask.sane(results)


@click.group(epilog="Example: devstral-fix setups retry")
def setups() -> None:
    """Set-ups of repositories: what they made is kept on this machine, and so is that one failed."""


@setups.command("retry", epilog="Example: devstral-fix setups retry")
@AS_JSON
def setups_retry(*, as_json: bool) -> None:
    """Let failed set-ups be tried again now, instead of after DEVSTRAL_FIX_SETUP_RETRY_SECONDS."""
    from worker.compose import make_layers

    count = make_layers(settings()).forget_failures()
    show_done({"forgotten": count}, f"{count} forgotten", as_json=as_json)
