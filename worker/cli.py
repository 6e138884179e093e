"""The console script `devstral-fix`. Each command builds its process and runs it; nothing else is decided here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from agent.protocols import Isolation
from worker.errors import ServiceError
from worker.settings import Settings
from worker.supervisor import die_with_parent

EXIT_REFUSED = 3  # it could not run: a setting, the machine, the model server
EXIT_UNSOLVED = 4  # it ran to its end, and the result is not a fix (2 is wrong usage)


def settings(**overrides: Any) -> Settings:
    return Settings.load(**{k: v for k, v in overrides.items() if v is not None})


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: devstral-fix demo",
)
@click.version_option(package_name="devstral-fix")
def cli() -> None:
    """Turn GitHub issues into pull requests with Devstral on your own GPUs."""


@cli.command(epilog="Example: devstral-fix demo --json")
@click.option("--model", default=None, help="scripted:FILE or openai:URL#NAME; the default is the demo's own script.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--keep", is_flag=True, help="Keep the demo's directory (servers' data, logs, repository).")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the script as it was asked.")
def demo(model: str | None, *, as_json: bool, keep: bool, record: Path | None) -> None:
    """Run the whole way of one issue on this machine: label, queue, sandbox, evidence, pull request."""
    from worker.demo.run import demo as run

    sys.exit(run(model=model, as_json=as_json, keep=keep, record=record))


@cli.command(
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
@click.option("--setup/--no-setup", default=True, show_default=True, help="Install what the repository needs, first.")
@click.option("--apply", "apply_patch", is_flag=True, help="Change the repository's files as the patch says.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the patch.")
def fix(
    repo: Path,
    issue_file: Any,
    model: str | None,
    output: Path | None,
    trajectory: Path | None,
    isolation: str,
    *,
    setup: bool,
    apply_patch: bool,
    as_json: bool,
) -> None:
    """Fix an issue in a local git repository and print the patch; the repository stays untouched.

    The issue file's first line is the title. --apply changes the files only for a fixed or partial outcome. Exit
    status: 0 fixed, 2 wrong usage, 3 could not run, 4 ran to its end without a fix.
    """
    from worker import local

    for name, path in (("--output", output), ("--trajectory", trajectory)):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.BadParameter(f"{path.parent} is no directory", param_hint=name)
    if trajectory is not None and trajectory.exists():
        raise click.BadParameter(f"{trajectory} exists", param_hint="--trajectory")
    top = local.work_tree(repo.resolve()) if apply_patch else None
    text = issue_file.read()
    title, _, body = text.strip().partition("\n")
    if not title:
        raise click.BadParameter("the file is empty", param_hint="--issue-file")
    result = local.fix(
        settings(model=model, isolation=isolation),
        repo=repo.resolve(),
        title=title.lstrip("# ").strip(),
        body=body.strip(),
        trajectory=trajectory,
        set_up=setup,
        note=lambda line: click.echo(line, err=True),
    )
    diff = result.patch.diff.encode("utf-8", "surrogateescape")
    if output is not None:
        output.write_bytes(diff)
    if as_json:
        click.echo(json.dumps(local.summary(result)))
    elif output is None:
        sys.stdout.buffer.write(diff)
    click.echo(f"outcome: {result.verdict.outcome.value} ({result.verdict.reason})", err=True)
    if top is not None and result.deliverable:
        sys.stdout.flush()  # the patch is out, whatever becomes of applying it
        local.apply_to(top, result.patch)
        click.echo(f"applied to {top}", err=True)
    elif top is not None:
        click.echo("not applied", err=True)
    sys.exit(0 if result.verdict.outcome.value == "fixed" else EXIT_UNSOLVED)


@cli.command(epilog="Example: DEVSTRAL_FIX_MODEL=openai:http://127.0.0.1:8000/v1#m devstral-fix up")
@click.option("--port", default=8080, show_default=True, help="Where webhooks arrive, on loopback.")
@click.option("--isolation", type=click.Choice([i.value for i in Isolation]), default=None, help="Default: strict.")
def up(port: int, isolation: str | None) -> None:
    """Run everything on this machine: embedded Postgres and Redis, the API, workers, beat."""
    from worker.up import up as run

    sys.exit(run(settings(isolation=isolation), port=port))


@cli.command(epilog="Example: devstral-fix serve --host 0.0.0.0 --port 8080")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def serve(host: str, port: int) -> None:
    """Receive webhooks and serve the API."""
    import uvicorn

    die_with_parent()
    settings().need("database_url")  # told here, not as a traceback from inside the server
    settings().need("redis_url")
    uvicorn.run(
        "api.app:create_app",
        factory=True,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


@cli.command(epilog="Example: devstral-fix work --role gpu")
@click.option("--role", type=click.Choice(["default", "cpu", "gpu"]), required=True)
def work(role: Any) -> None:
    """Run one worker process: default (GitHub), gpu (agents and model) or cpu (verification)."""
    from worker.work import work as run

    die_with_parent()
    sys.exit(run(settings(), role))


@cli.command(epilog="Example: devstral-fix beat")
def beat() -> None:
    """Send the periodic sweep."""
    from worker.work import beat as run

    die_with_parent()
    sys.exit(run(settings()))


@cli.command(epilog="Example: devstral-fix migrate")
def migrate() -> None:
    """Bring the database to the newest schema."""
    from worker.migrate import migrate as run

    run(settings().need("database_url"))


@cli.command(epilog="Example: devstral-fix doctor --isolation strict --json | jq '.isolation[] | select(.mend)'")
@click.option(
    "--isolation", type=click.Choice([i.value for i in Isolation]), default=None, help="Default: the setting."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(isolation: str | None, *, as_json: bool) -> None:
    """Say what isolation this machine offers, what is missing, and what mends it.

    Exit status: 0 when the chosen isolation can be had, else 1.
    """
    from dataclasses import asdict

    from worker.doctor import judge, lines
    from worker.examine import examine

    chosen = settings(isolation=isolation)
    report = judge(examine(chosen), chosen.isolation)
    if as_json:
        click.echo(json.dumps({**asdict(report), "fit": report.fit}))
    else:
        for line in lines(report):
            click.echo(line)
    sys.exit(0 if report.fit else 1)


@cli.command(epilog="Example: devstral-fix bench control-plane")
@click.argument("name", type=click.Choice(["control-plane", "sandbox"]))
def bench(name: str) -> None:
    """Measure this machine, print a table, and write docs/benchmarks; exit status 1 when a goal is missed."""
    from importlib import import_module

    sys.exit(import_module(f"worker.bench.{name.replace('-', '_')}").main())


@cli.group(epilog="Example: devstral-fix setups retry")
def setups() -> None:
    """Set-ups of repositories: what they made is kept on this machine, and so is that one failed."""


@setups.command("retry", epilog="Example: devstral-fix setups retry")
def setups_retry() -> None:
    """Let failed set-ups be tried again now, instead of after DEVSTRAL_FIX_SETUP_RETRY_SECONDS."""
    from worker.compose import make_layers

    click.echo(f"{make_layers(settings()).forget_failures()} forgotten")


@cli.group(epilog="Example: devstral-fix runs list")
def runs() -> None:
    """Look at runs, and end them."""


def _database_url() -> str:
    """The setting, or what an `up` that runs over the same data directory uses."""
    from worker.up import running_servers

    here = settings()
    servers = running_servers(here.data_dir) if here.database_url is None else None
    return here.need("database_url") if servers is None else servers.database_url


def _in_transaction(action: Callable[[Any], Any]) -> Any:
    from worker.store.session import Store

    store = Store(_database_url(), pool_size=1)
    try:
        with store.transaction() as session:
            return action(session)
    finally:
        store.close()


@runs.command("list", epilog="Example: devstral-fix runs list --json | jq .")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def list_runs(limit: int, *, as_json: bool) -> None:
    """The newest runs."""
    from worker.store import queries

    rows = _in_transaction(lambda session: queries.recent_runs(session, limit=limit))
    for row in rows:
        data = {
            "run_id": str(row.id),
            "state": row.state.value,
            "outcome": row.outcome.value if row.outcome else None,
            "repository": row.repository,
            "issue_number": row.issue_number,
            "cost_usd": float(row.usd),
            "reason": row.reason,
        }
        if as_json:
            click.echo(json.dumps(data))
        else:
            outcome = f" {data['outcome']}" if row.outcome else ""
            click.echo(f"{row.id}  {row.repository}#{row.issue_number}  {row.state.value}{outcome}  ${row.usd:.4f}")


@runs.command("cancel", epilog="Example: devstral-fix runs cancel 01990000-0000-7000-8000-000000000000")
@click.argument("run_id", type=click.UUID)
@click.option("--by", default="operator", show_default=True, help="Who asks, for the record.")
def cancel_run(run_id: UUID, by: str) -> None:
    """End a run: at once, or at its next step where a worker is on it."""
    from worker import wakes
    from worker.queue import Publisher, make_app
    from worker.runs import requests

    state = _in_transaction(lambda session: requests.cancel(session, run_id, by=by))
    if state.value == "cancelled" and settings().redis_url is not None:
        publisher = Publisher(make_app(settings().need("redis_url")))
        publisher.send(wakes.deliver(run_id))  # the issue's status comment says so
        publisher.close()
    click.echo(f"{run_id}: {'cancel requested' if state.value == 'running' else state.value}")


def main() -> None:
    """The entry point: our own errors become one line, with an exit status scripts can use."""
    try:
        cli(standalone_mode=True)
    except ServiceError as error:
        click.echo(f"devstral-fix: {error}", err=True)
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
