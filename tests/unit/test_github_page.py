"""docs/github.md lists the permissions and events of the code, with their reasons, and the numbers of the settings."""

from __future__ import annotations

import re
from pathlib import Path

from api import events
from worker.adapters.forge.auth import API_PERMISSIONS, CHECKS_PERMISSIONS
from worker.adapters.forge.gate import Rates
from worker.adapters.forge.needs import EVENTS, LEVELS, PERMISSIONS
from worker.settings import Settings

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "github.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())


def test_permissions_and_events_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    assert rows == [(p.name, p.level, p.why, p.without or "nothing works") for p in PERMISSIONS]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*?) \| ([^|]*?) \|$", TEXT, re.MULTILINE)
    assert rows == [(e.name, e.why, e.without or "nothing starts") for e in EVENTS]


def test_every_event_that_is_handled_is_subscribed_to_and_no_other() -> None:
    handled = {event for event, _ in events._HANDLERS}
    of_every_app = {"installation", "installation_repositories"}
    assert handled - of_every_app == {event.name for event in EVENTS}


def test_no_token_asks_for_more_than_the_app_is_granted() -> None:
    granted = {needed.name: needed.level for needed in PERMISSIONS}
    for name, level in (API_PERMISSIONS | CHECKS_PERMISSIONS).items():
        assert LEVELS.index(granted[name]) >= LEVELS.index(level)


def test_the_numbers_are_those_of_the_settings() -> None:
    fields = Settings.model_fields
    for name, words in (
        ("content_per_minute", "{} requests a minute"),
        ("content_per_hour", "{} an hour"),
        ("points_per_minute", "{} points a minute"),
    ):
        default = fields[f"github_{name}"].default
        assert default == Rates.model_fields[name].default
        assert words.format(default) in WORDS
    assert f"`DEVSTRAL_FIX_MAX_OPEN_PULL_REQUESTS` ({fields['max_open_pull_requests'].default})" in WORDS
    assert f"`DEVSTRAL_FIX_MAX_PULL_REQUESTS_PER_DAY` ({fields['max_pull_requests_per_day'].default})" in WORDS
