"""Settings: built from the environment, and helpful when something is missing or wrong."""

from __future__ import annotations

import pytest

from agent.types import Price
from worker.errors import SettingsError
from worker.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    import os

    for name in list(os.environ):
        if name.startswith("DEVSTRAL_FIX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_a_missing_setting_names_its_variable_and_an_example():
    with pytest.raises(SettingsError, match=r"DEVSTRAL_FIX_DATABASE_URL is not set. Example: .*postgresql\+psycopg://"):
        Settings.load().need("database_url")


def test_an_unusable_setting_names_its_variable(monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_GPU_SLOTS", "many")
    monkeypatch.setenv("DEVSTRAL_FIX_ISOLATION", "none")
    with pytest.raises(SettingsError, match=r"DEVSTRAL_FIX_ISOLATION.*DEVSTRAL_FIX_GPU_SLOTS"):
        Settings.load()


def test_an_empty_secret_is_no_secret(monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_WEBHOOK_SECRET", "")
    assert Settings.load().webhook_secret is None


def test_a_file_in_the_working_directory_is_read_and_the_environment_wins(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DEVSTRAL_FIX_TRIGGER_LABEL=from-file\nDEVSTRAL_FIX_PROFILE=from-file\n")
    monkeypatch.setenv("DEVSTRAL_FIX_PROFILE", "from-environment")
    settings = Settings.load()
    assert (settings.trigger_label, settings.profile) == ("from-file", "from-environment")


def test_secrets_are_not_printed(monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", "postgresql://u:hunter2@h/d")
    settings = Settings.load()
    assert "hunter2" not in repr(settings)
    assert settings.need("database_url").endswith("hunter2@h/d")


def test_prices_come_from_the_setting_else_from_the_profile(monkeypatch):
    assert Settings.load(profile="large-123b").prices == Price(prompt=0.40, completion=2.00)
    monkeypatch.setenv("DEVSTRAL_FIX_PRICE", '{"prompt": 1, "cached": 0.1, "completion": 5}')
    assert Settings.load().prices == Price(prompt=1, cached=0.1, completion=5)


@pytest.mark.parametrize("value", ["a.example,b.example", '["a.example", "b.example"]', " a.example , b.example "])
def test_remote_hosts_are_a_list_or_words_with_commas(monkeypatch, value):
    monkeypatch.setenv("DEVSTRAL_FIX_ALLOW_REMOTE_MODELS", value)
    assert Settings.load().allow_remote_models == ("a.example", "b.example")


@pytest.mark.parametrize(("name", "value"), [("LIMITS", "{"), ("PRICE", '{"prompt": -1}')])
def test_what_is_no_json_or_no_price_is_told(monkeypatch, name, value):
    monkeypatch.setenv(f"DEVSTRAL_FIX_{name}", value)
    with pytest.raises(SettingsError, match=f"(?i){name}"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "hush"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", "http://:hush@h:6379/0"),
        ("REDIS_URL", "redis:///0"),
        ("REDIS_URL", "redis://:hush@h:port/0"),
        ("REDIS_URL", "redis://:hush@h:99999"),
        ("REDIS_URL", "redis://:hu/sh@h:6379/0"),
        ("REDIS_URL", "redis://:hush@h/zero"),
        ("REDIS_URL", "unix://"),
        ("REDIS_URL", "unix:///run/r.sock?password=hush"),
        ("DATABASE_URL", "hush"),
        ("DATABASE_URL", "mysql://u:hush@h/d"),
        ("DATABASE_URL", "postgresql+asyncpg://u:hush@h/d"),
        ("DATABASE_URL", "postgresql://u:hush@h"),
        ("DATABASE_URL", "postgresql://u:hush@/d"),
        ("DATABASE_URL", "postgresql://u:hush@[h/d"),
    ],
)
def test_a_url_that_is_none_is_told_without_its_password(monkeypatch, name, url):
    monkeypatch.setenv(f"DEVSTRAL_FIX_{name}", url)
    with pytest.raises(SettingsError, match=rf"DEVSTRAL_FIX_{name}: .*Example: ") as told:
        Settings.load()
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("REDIS_URL", "redis://h"),
        ("REDIS_URL", "rediss://u:p%2Fq@h:6380/3?ssl_cert_reqs=required"),
        ("REDIS_URL", "redis://[::1]:6379/0"),
        ("REDIS_URL", "unix://:p@/run/redis.sock?db=2"),
        ("DATABASE_URL", "postgresql://u:p@h/d"),
        ("DATABASE_URL", "postgresql+psycopg://u:p@/d?host=/run/postgresql&port=5432"),
    ],
)
def test_urls_of_each_kind_are_taken(monkeypatch, name, url):
    monkeypatch.setenv(f"DEVSTRAL_FIX_{name}", url)
    assert Settings.load().need(name.lower()) == url


def test_limits_are_settable_in_parts(monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_LIMITS", '{"steps": 5}')
    limits = Settings.load().limits
    assert (limits.steps, limits.usd) == (5, 3.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SAMPLES", "0"), ("SAMPLES", "9"), ("MAX_SAMPLES", "0"), ("SAMPLES_IDLE", "9"), ("CASCADE", '["a", "a"]')],
)
def test_tries_and_cascades_that_can_not_be_are_told(monkeypatch, name, value):
    monkeypatch.setenv(f"DEVSTRAL_FIX_{name}", value)
    with pytest.raises(SettingsError, match=f"DEVSTRAL_FIX_{name}"):
        Settings.load()


def test_a_cascade_is_read_in_its_order(monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_CASCADE", '["small-24b", "large-123b"]')
    assert Settings.load().cascade == ("small-24b", "large-123b")
