"""docs/repository-settings.md names every key of `.devstral-fix.yml`, no other, with its default; its example works."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from agent.types import Limits
from worker.settings import Settings
from worker.stages.config import RepositoryConfig, RunLimits, parse

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "repository-settings.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", TEXT, re.MULTILINE))
EXAMPLE = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]


def test_every_key_is_there_and_no_other() -> None:
    keys = [*RepositoryConfig.model_fields, *(f"limits.{name}" for name in RunLimits.model_fields)]
    assert sorted(ROWS) == sorted(keys)


def test_the_defaults_are_those_of_the_code() -> None:
    for name in ("test_timeout_seconds", "setup_timeout_seconds", "max_changed_files", "max_changed_lines"):
        assert float(ROWS[name]) == RepositoryConfig.model_fields[name].default
    for name in ("allow_workflow_changes", "allow_binary_files"):
        assert ROWS[name] == f"`{str(RepositoryConfig.model_fields[name].default).lower()}`"
    for name in ("max_open_pull_requests", "max_pull_requests_per_day"):
        assert ROWS[name] == f"the operator's ({Settings.model_fields[name].default})"
    for name in RunLimits.model_fields:
        (said,) = re.findall(r"\(([0-9.]+)\)", ROWS[f"limits.{name}"])
        assert float(said) == getattr(Limits(), name)


def test_the_example_sets_every_key() -> None:
    example = yaml.safe_load(EXAMPLE)
    assert set(example) == set(RepositoryConfig.model_fields)
    assert set(example["limits"]) == set(RunLimits.model_fields)
    parse(EXAMPLE.encode())
