"""Levels, sandboxes and the table of the attack suite.

A test states its rows with `row`; pytest's controller collects them (also from xdist's workers), and `python -m
tests.attacks` prints them. Each level runs every attack; what only `strict` can stop is asked of `strict` only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.protocols import Isolation, Session
from tests.sandboxes import Place, place
from worker.errors import IsolationMissing

Row = Callable[..., None]
_REPORTS = pytest.StashKey[list[dict[str, object]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", default=None, help="write what happened, one JSON object a line, to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root_only: about a service that root started; a plain user's run leaves it out")
    config.stash[_REPORTS] = []
    config.pluginmanager.register(_Collector(config), "attack-table")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        left = [item for item in items if item.get_closest_marker("root_only")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


class _Collector:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            rows = [json.loads(str(value)) for name, value in report.user_properties if name == "row"]
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            found = {"test": report.nodeid, "outcome": report.outcome, "rows": rows, "reason": reason}
            self._config.stash[_REPORTS].append(found)

    def pytest_sessionfinish(self) -> None:
        target = self._config.getoption("--rows")
        if target is not None and not hasattr(self._config, "workerinput"):
            lines = [json.dumps(found) for found in self._config.stash[_REPORTS]]
            Path(str(target)).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module", params=["basic", "strict"])
def level(request: pytest.FixtureRequest) -> Isolation:
    return Isolation(request.param)


@pytest.fixture(scope="module")
def box(level: Isolation, tmp_path_factory: pytest.TempPathFactory) -> Place:
    try:
        return place(tmp_path_factory.mktemp("attacked"), isolation=level)
    except IsolationMissing as e:
        pytest.skip(f"{level.value} can't be had here: {e}")


@pytest.fixture(scope="module")
def session(box: Place) -> Iterator[Session]:
    """For attacks that leave no trace."""
    with box.session() as session:
        yield session


@pytest.fixture
def row(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Row:
    """`row("6 core_pattern", outcome="EROFS", control="open")`, or with `without="uid drop"` for a removed defence:
    then `outcome` is what the attack got. Each attack has a control that was measured."""
    found = request.node.callspec.params.get("level", "") if hasattr(request.node, "callspec") else ""

    def state(
        attack: str, outcome: object, *, control: object = "", without: str = "", level: str | None = None
    ) -> None:
        assert control or without, f"{attack}: no control"
        user = "root" if os.geteuid() == 0 else "plain"
        data = {
            "attack": attack,
            "level": level if level is not None else str(getattr(found, "value", found)),
            "user": user,
            "outcome": str(outcome),
            "control": str(control),
            "without": without,
        }
        record_property("row", json.dumps(data))

    return state
