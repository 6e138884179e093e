"""`devstral-fix prune`: forget what is old, as the settings say."""

from __future__ import annotations

import click

from worker import terminal
from worker.commands.base import AS_JSON, located


@click.command(epilog="Example: devstral-fix prune --dry-run")
@click.option("--dry-run", is_flag=True, help="Only count.")
@AS_JSON
def prune(*, dry_run: bool, as_json: bool) -> None:
    """Forget old requests, deliveries, steps and baselines, and drop this machine's repositories of runs that ended.

    Workers do this by themselves once an hour. Ages are DEVSTRAL_FIX_KEEP_*_DAYS. The ledger is never touched.
    """
    from worker.compose import make_repositories
    from worker.prune import PruneRows, PruneRunDirs
    from worker.store.session import Store

    chosen = located()
    store = Store(chosen.need("database_url"), pool_size=1)
    try:
        counts = PruneRows.by(chosen, store)(dry_run=dry_run)
        counts |= PruneRunDirs(store=store, repositories=make_repositories(chosen.data_dir))(dry_run=dry_run)
    finally:
        store.close()
    if as_json:
        terminal.data({"dry_run": dry_run, **counts})
        return
    done = "would be forgotten" if dry_run else "forgotten"
    for name, count in counts.items():
        terminal.line(f"{name.replace('_', ' ')}: {count} {done}")
