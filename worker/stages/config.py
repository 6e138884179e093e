"""`.devstral-fix.yml` of a repository's base branch: what its owners say about tests and limits."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from agent.choice import MOST
from agent.hygiene import HygienePolicy
from agent.reports import Format
from agent.types import Frozen, Limits

PATH = ".devstral-fix.yml"

Command = Annotated[str, Field(min_length=1, max_length=4000)]


class RunLimits(Frozen):
    """What a repository's owners let one run use at most; never more than the operator does."""

    steps: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    wall_seconds: float | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, gt=0)

    def within(self, limits: Limits) -> Limits:
        """The lower of both, each."""
        asked = self.model_dump(exclude_none=True)
        return limits.model_copy(update={name: min(value, getattr(limits, name)) for name, value in asked.items()})


class RepositoryConfig(Frozen):
    """Every key is optional; an unknown key is an error that is reported on the issue."""

    test: str | None = Field(default=None, max_length=4000, description="shell command, run at the repository's root")
    test_report_format: Format | None = Field(default=None, description="of the report that the test command gives")
    test_report: str | None = Field(
        default=None,
        pattern=r"^[^/\x00-\x1f][^\x00-\x1f]{0,299}$",
        description="the file below the repository's root that holds it, where it is not $TEST_REPORT",
    )
    setup: Command | Literal[False] | None = Field(
        default=None,
        description="shell command that installs below $SETUP_DIR, with the network the service allows; false: none",
    )
    setup_timeout_seconds: float = Field(default=900, gt=0, le=7200)
    test_timeout_seconds: float = Field(default=600, gt=0, le=7200)
    ai_contributions: Literal["allowed", "forbidden"] | None = Field(
        default=None, description="unset: what the repository's guides for contributors say"
    )
    follow_checks: bool = Field(
        default=True, description="checks that fail on a pull request of the service are seen to, three times at most"
    )
    remote_models: bool = Field(default=True, description="false: no model server outside the operator's own machines")
    allow_workflow_changes: bool = False
    allow_binary_files: bool = False
    limits: RunLimits = RunLimits()
    samples: int | None = Field(
        default=None, ge=1, le=MOST, description="tries of one issue, of which the best is proposed; each costs as much"
    )
    protected_paths: tuple[Annotated[str, Field(min_length=1, max_length=300)], ...] = Field(
        default=(), max_length=100, description="globs of paths that a change must not touch; * matches / too"
    )

    max_open_pull_requests: int | None = Field(
        default=None, gt=0, description="of this service at once; never more than the operator allows"
    )
    max_pull_requests_per_day: int | None = Field(default=None, gt=0, description="the same, made in one UTC day")
    max_changed_files: int = Field(default=100, gt=0, le=10_000)
    max_changed_lines: int = Field(default=10_000, gt=0, le=1_000_000)

    @property
    def hygiene(self) -> HygienePolicy:
        return HygienePolicy(
            allow_workflows=self.allow_workflow_changes,
            allow_binaries=self.allow_binary_files,
            max_files=self.max_changed_files,
            max_lines=self.max_changed_lines,
            protected=(PATH, *self.protected_paths),
        )


class ConfigError(ValueError):
    """The file is there and unusable; the message is fit for the issue."""


def parse(text: bytes | None) -> RepositoryConfig:
    """The settings of a file's content; None (no file) means all defaults."""
    if text is None:
        return RepositoryConfig()
    try:
        data = yaml.safe_load(text.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"`{PATH}` is not valid YAML: {str(error)[:300]}") from error
    if data is None:
        return RepositoryConfig()
    if not isinstance(data, dict):
        raise ConfigError(f"`{PATH}` must hold keys and values at its top level")
    try:
        return RepositoryConfig.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise ConfigError(f"`{PATH}` has errors: {problems}") from error
