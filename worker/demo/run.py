"""`devstral-fix demo`: the whole way of one issue with real servers, against a GitHub double, on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from agent.protocols import Isolation
from agent.tokens import TokenCounter
from worker import exits, money, terminal
from worker.adapters.models import open_model
from worker.demo import scratch
from worker.demo.checks import Check, run_checks
from worker.demo.github_double import GitHubDouble
from worker.demo.node import node_command
from worker.demo.record import record as record_script
from worker.demo.seed import REPOSITORY, issue, project_files
from worker.demo.watch import Progress, wait_for_end
from worker.settings import PREFIX, Settings
from worker.store import queries
from worker.store.models import Run, RunState
from worker.store.session import Store
from worker.supervisor import Supervisor
from worker.up import children, embedded_servers, free_port

FIELDS = [
    "run_id",
    "state",
    "outcome",
    "pull_request_url",
    "branch",
    "tests_before",
    "tests_after",
    "steps",
    "usage",
    "cost_usd",
    "seconds",
    "model",
    "isolation",
]
LABEL = "devstral-fix"
SCRIPT = Path(__file__).parent / "script.json"
PATIENCE = {"scripted": 120.0, "openai": 3600.0}  # seconds until the demo gives up


def demo(*, model: str | None, as_json: bool, keep: bool, record: Path | None) -> exits.Exit:
    """Run the demo; done only when the run was delivered as fixed and every check holds."""
    if record is not None:
        record_script(SCRIPT, record)
        terminal.line(f"recorded {record}")
        return exits.Exit.DONE
    started = time.monotonic()
    kind, _, where = (model or f"scripted:{SCRIPT}").partition(":")
    spec = f"{kind}:{Path(where).resolve()}" if kind == "scripted" else f"{kind}:{where}"  # workers run elsewhere
    settings = Settings.load()
    label = open_model(
        spec,
        counter=TokenCounter(),
        allow_remote=settings.allow_remote_models,
        api_key=settings.model_api_key,
    ).label
    terminal.line(f"isolation={Isolation.BASIC.value}; {label}")
    root = scratch.make()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken apart, as on Ctrl-C
    try:
        result = _run(root, spec, settings, started)
    finally:
        if keep:
            terminal.line(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    if as_json:
        terminal.data({field: result.get(field) for field in FIELDS})
    return exits.Exit.DONE if result["ok"] else exits.Exit.FAILED


def environment(root: Path, double: GitHubDouble, spec: str, settings: Settings, servers: Any) -> dict[str, str]:
    """The processes' settings: the demo's own, and nothing of the caller's but the model's key."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    kept["NO_PROXY"] = kept["no_proxy"] = "127.0.0.1"  # every server of the demo is on loopback
    own = {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "DATA_DIR": str(root / "data"),
        "WEBHOOK_SECRET": double.webhook_secret,
        "API_TOKEN": secrets.token_hex(16),
        "GITHUB_URL": double.api_url,
        "GIT_BASE_URL": double.git_base_url,
        "GITHUB_APP_ID": str(double.app_id),
        "GITHUB_APP_KEY_FILE": str(double.private_key_path),
        "MODEL": spec,
        "ISOLATION": Isolation.BASIC.value,
        "ALLOW_REMOTE_MODELS": ",".join(settings.allow_remote_models),
        "TRIGGER_LABEL": LABEL,
        "PROFILE": settings.profile,
        "LIMITS": settings.limits.model_dump_json(),
        "PRICE": settings.prices.model_dump_json(),
    }
    if settings.tekken_file is not None:
        own["TEKKEN_FILE"] = str(settings.tekken_file.resolve())
    if settings.model_api_key is not None:
        own["MODEL_API_KEY"] = settings.model_api_key.get_secret_value()
    return {**kept, **{PREFIX + name: value for name, value in own.items()}}


def _run(root: Path, spec: str, settings: Settings, started: float) -> dict[str, Any]:
    logging.getLogger().setLevel(logging.ERROR)  # the processes log to files; this one shows its progress
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        progress.stage("Postgres, Redis and the GitHub double")
        double = stack.enter_context(GitHubDouble(root / "github", node=node_command()))
        servers = stack.enter_context(embedded_servers(root / "servers", durable=False))
        double.create_repository(REPOSITORY, project_files())
        port = free_port()
        double.receiver_url = f"http://127.0.0.1:{port}/webhooks/github"
        env = environment(root, double, spec, settings, servers)
        progress.stage("API, workers and beat")
        supervisor = Supervisor(children(port, log_dir=root / "logs"), env=env, cwd=root, grace=10)
        stack.enter_context(supervisor)
        store = Store(servers.database_url, pool_size=2)
        stack.callback(store.close)
        progress.wait_for_api(port)
        title, body = issue()
        number = double.create_issue(REPOSITORY, title, body)
        progress.stage(f"labelled {REPOSITORY}#{number}; the signed webhook is on its way")
        double.add_label(REPOSITORY, number, LABEL)
        run_id = wait_for_end(
            store, progress, number, timeout=PATIENCE.get(spec.partition(":")[0], 3600.0), broken=supervisor.broken
        )
        checks = list(run_checks(store, double, run_id)) if run_id is not None and ended(store, run_id) else []
        result = _result(store, run_id, spec, checks)
        result["seconds"] = round(time.monotonic() - started, 2)
        if run_id is None or not result["ok"]:
            _show_logs(root / "logs")
    _show(result)
    return result


def ended(store: Store, run_id: UUID) -> bool:
    """Whether the run was delivered; what it promises is only true then."""
    with store.transaction() as session:
        return session.get_one(Run, run_id).state is RunState.DELIVERED


def _result(store: Store, run_id: Any, spec: str, checks: list[Check]) -> dict[str, Any]:
    if run_id is None:
        return {"ok": False, "run_id": None, "state": None, "reason": "no run was started", "model": spec}
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        patch = queries.patch(session, run_id)
        pull_request = queries.pull_request(session, run.repository, run.branch)
        evidence = {e.stage: e.outcome.value for e in queries.evidence(session, run_id)}
        steps = queries.step_count(session, run_id)
    state, outcome = run.state.value, run.outcome.value if run.outcome else None
    return {
        "ok": state == "delivered" and outcome == "fixed" and bool(checks) and all(c.holds for c in checks),
        "run_id": str(run.id),
        "state": state,
        "outcome": outcome,
        "reason": run.reason,
        "pull_request_url": pull_request.url if pull_request else None,
        "branch": run.branch,
        "tests_before": evidence.get("before_with_new_tests", evidence.get("before")),
        "tests_after": evidence.get("after"),
        "steps": steps,
        "usage": {
            "prompt": run.prompt_tokens,
            "cached": run.cached_tokens,
            "cache_untold": run.cache_untold_tokens,
            "completion": run.completion_tokens,
        },
        "cost_usd": float(run.usd),
        "cost_usd_low": float(run.usd_low),
        "model": run.model,
        "isolation": run.isolation.value if run.isolation else None,
        "diff": patch.diff.decode("utf-8", "replace") if patch else "",
        "checks": checks,
    }


def _show(r: dict[str, Any]) -> None:
    if r["run_id"] is None:
        terminal.line(f"failed: {r['reason']}")
        return
    usage = r["usage"]
    word = "would cost" if "no language model ran" in (r["model"] or "") else "cost"
    terminal.line()
    terminal.text(r["diff"].rstrip())
    terminal.line()
    url = r["pull_request_url"] or "(none)"
    terminal.line(f"pull request  {url}  (on the GitHub double, which ends with the demo)")
    terminal.line(f"branch        {r['branch']}")
    terminal.line(f"tests         before: {r['tests_before']}   after: {r['tests_after']}   (run by the service)")
    terminal.line(f"steps         {r['steps']}")
    untold = f" (of {usage['cache_untold']} it was not told)" if usage["cache_untold"] else ""
    cached = f"{usage['cached']} of them cached{untold}"
    terminal.line(f"tokens        {usage['prompt']} in, {cached}, {usage['completion']} out")
    terminal.line(f"{word:<13} {money.usd(r['cost_usd_low'], r['cost_usd'])}")
    for check in r["checks"]:
        terminal.line(f"{'checked' if check.holds else 'NOT TRUE':<13} {check.what}")
    reason = f" ({r['reason']})" if r["reason"] else ""
    terminal.line(f"state         {r['state']}, outcome {r['outcome']}{reason}, {r['seconds']} s")


def _show_logs(logs: Path) -> None:
    """The last warnings and errors of each process, for whoever has to find out why."""
    for file in sorted(logs.glob("*.log")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if '"level": "info"' not in line][-8:]
        for line in telling:
            terminal.line(f"{file.stem}: {line[:1000]}", err=True)
