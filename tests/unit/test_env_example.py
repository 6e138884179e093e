""".env.example names every setting there is, no other, and only values that work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.settings import PREFIX, Settings

LINES = re.findall(
    rf"^#?({PREFIX}[A-Z_]+)=(.*)$",
    (Path(__file__).resolve().parents[2] / ".env.example").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_every_setting_is_there_and_no_other() -> None:
    assert {name for name, _ in LINES} == {PREFIX + field.upper() for field in Settings.model_fields}
    assert len(LINES) == len(Settings.model_fields)


def test_the_values_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in LINES), encoding="utf-8")
    for name, _ in LINES:
        monkeypatch.delenv(name, raising=False)
    settings = Settings(_env_file=env_file)
    assert settings.allow_remote_models == ("models.example.com", "other.example.com")
    assert settings.api_token is None
