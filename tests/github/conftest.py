"""The GitHub double, the real receiver over HTTP, and all stages of a run between them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import uvicorn

from api.app import build
from tests.github.scene import Clock, Scene
from tests.github_double import app_forges, running_double
from tests.integration.conftest import shared_store, store
from worker.demo.github_double import GitHubDouble
from worker.settings import Settings

__all__ = ["shared_store", "store"]


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHubDouble]:
    with running_double(tmp_path_factory.mktemp("double")) as double:
        yield double


@pytest.fixture
def receiver(store, redis_url, double) -> Iterator[str]:
    """The service's own API on a free port; where it is."""
    settings = Settings(
        _env_file=None,
        database_url=store.engine.url.render_as_string(hide_password=False),
        redis_url=redis_url,
        webhook_secret=double.webhook_secret,
        mention=double.app_slug,
    )
    server = uvicorn.Server(uvicorn.Config(build(settings), port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, name="receiver", daemon=True)
    thread.start()
    up = threading.Event()
    while not server.started and thread.is_alive():
        up.wait(0.01)
    assert server.started, "the API did not start"
    (port,) = {s.getsockname()[1] for one in server.servers for s in one.sockets}
    yield f"http://127.0.0.1:{port}/webhooks/github"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def scene(store, tmp_path, double, receiver) -> Iterator[Scene]:
    double.receiver_url = receiver
    clock = Clock()
    scene = Scene(store, tmp_path, double, app_forges(double, clock), clock)
    yield scene
    double.receiver_url = None
    double.clear_faults()
    scene.heartbeat.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests noted: how often GitHub was asked, what came of the payloads, and which answers are our own
    reading of its documentation rather than evidence."""
    noted = [
        (report.nodeid.rpartition("::")[2], name, value)
        for report in terminalreporter.getreports("passed")
        if report.when == "teardown" and "tests/github/" in report.nodeid
        for name, value in report.user_properties
    ]
    if not noted or not terminalreporter.config.getoption("--tables"):
        return
    terminalreporter.section("what was noted")
    repaired: Counter[str] = Counter()
    for test, name, value in noted:
        if name == "served by our own repairs":
            repaired.update(value)
        elif isinstance(value, str):
            terminalreporter.line(f"{test}: {name}:\n\n{value}\n")
        else:
            terminalreporter.line(f"{test}: {name}: {value}")
    terminalreporter.line(f"served by our own repairs, in all: {dict(repaired)}")
