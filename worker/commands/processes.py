"""Commands that are processes of the service, and the one that prepares its database."""

from __future__ import annotations

import sys
from typing import Any

import click

from agent.protocols import Isolation
from worker.commands.base import settings
from worker.supervisor import die_with_parent


@click.command(epilog="Example: DEVSTRAL_FIX_MODEL=openai:http://127.0.0.1:8000/v1#m devstral-fix up")
@click.option("--port", default=8080, show_default=True, help="Where webhooks arrive, on loopback.")
@click.option("--isolation", type=click.Choice([i.value for i in Isolation]), default=None, help="Default: strict.")
def up(port: int, isolation: str | None) -> None:
    """Run everything on this machine: embedded Postgres and Redis, the API, workers, beat."""
    from worker.up import up as run

    sys.exit(run(settings(isolation=isolation), port=port))


@click.command(epilog="Example: devstral-fix serve --host 0.0.0.0 --port 8080")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def serve(host: str, port: int) -> None:
    """Receive webhooks and serve the API."""
    import uvicorn

    die_with_parent()
    chosen = settings()
    chosen.need("database_url")  # told here, not as a traceback from inside the server
    chosen.need("redis_url")
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


@click.command(epilog="Example: devstral-fix work --role gpu")
@click.option("--role", type=click.Choice(["default", "cpu", "gpu"]), required=True)
def work(role: Any) -> None:
    """Run one worker process: default (GitHub), gpu (agents and model) or cpu (verification)."""
    from worker.work import work as run

    die_with_parent()
    sys.exit(run(settings(), role))


@click.command(epilog="Example: devstral-fix beat")
def beat() -> None:
    """Send the periodic sweep."""
    from worker.work import beat as run

    die_with_parent()
    sys.exit(run(settings()))


@click.command(epilog="Example: devstral-fix migrate")
def migrate() -> None:
    """Bring the database to the newest schema."""
    from worker.migrate import migrate as run

    run(settings().need("database_url"))
