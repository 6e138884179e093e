"""Settings: one frozen model, built once per process from DEVSTRAL_FIX_* variables and `.env`."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as Undecodable

from agent.choice import MOST
from agent.protocols import Isolation
from agent.types import Limits, Price
from worker.errors import SettingsError
from worker.prices import of_profile

PREFIX = "DEVSTRAL_FIX_"

PROFILE = r"^[a-z0-9][a-z0-9.-]{0,40}$"
ENGINE_SLOTS, SERVER_SLOTS = 64, 8

SandboxBackend = Literal["bwrap", "container", "runsc"]

EXAMPLES = {
    "DATABASE_URL": "postgresql+psycopg://user:password@127.0.0.1:5432/devstral_fix",
    "REDIS_URL": "redis://:password@127.0.0.1:6379/0",
    "MODEL": "openai:http://127.0.0.1:8000/v1#devstral-small-2",
    "WEBHOOK_SECRET": "the secret you typed into the GitHub App's webhook form",
    "API_TOKEN": "output of: openssl rand -hex 32",
    "GITHUB_APP_ID": "123456",
    "GITHUB_APP_KEY_FILE": "/run/secrets/app.pem",
    "GITHUB_TOKEN": "github_pat_…",
    "TOOLS": '["/srv/toolchains/rust", "/srv/toolchains/go"]',
    "EGRESS_HOSTS": '["index.example.com", "*.files.example.com:8443"]',
    "EGRESS_PRIVATE_HOSTS": '["index.internal.example:8081"]',
}


def _check_url(url: str, name: str, schemes: tuple[str, ...], *, path: str) -> None:
    """ValueError, which never quotes the URL: it holds a password."""
    example = f"Example: {PREFIX}{name}={EXAMPLES[name]}"
    try:
        parts = urlsplit(url)
        usable = parts.port != 0  # one that is no number raises
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"it is no URL with a host and a port. {example}")
    if parts.scheme not in schemes:
        raise ValueError(f"its scheme is none of {', '.join(schemes)}. {example}")
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.strip("/") or re.fullmatch(r"|db=[0-9]+", parts.query) is None:
            raise ValueError("it names no socket. Example: unix://:password@/run/redis.sock?db=0")
    elif not parts.hostname and "host=" not in parts.query:
        raise ValueError(f"it names no host. {example}")
    elif re.fullmatch(path, parts.path) is None:
        raise ValueError(f"what stands behind the host names no database. {example}")


class Settings(BaseSettings):
    """Every field is the variable DEVSTRAL_FIX_<FIELD>. What a command needs and lacks is told by `need`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    data_dir: Path = Field(default=Path(".devstral-fix"), description="mirrors, workspaces, embedded servers")

    webhook_secret: SecretStr | None = Field(default=None, description="unset or empty: the webhook endpoint is off")
    webhook_secret_previous: SecretStr | None = Field(
        default=None, description="accepted, too, while the secret is being rotated"
    )
    webhook_max_bytes: int = Field(
        default=25 * 1024 * 1024, gt=0, le=25 * 1024 * 1024, description="GitHub sends no larger event"
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
        description="where GitHub and people reach this service",
    )
    api_token: SecretStr | None = Field(default=None, description="unset or empty: the REST API is off")
    trigger_label: str = Field(default="devstral-fix", min_length=1)
    mention: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]{1,39}$",
        description="the name, without @, by which comments may address the service: an App's slug; unset: none",
    )

    github_url: str = "https://api.github.com"
    git_base_url: str | None = Field(default=None, description="clone from here instead of the API's clone_url")
    github_app_id: int | None = None
    github_app_key_file: Path | None = None
    github_token: SecretStr | None = None
    github_content_per_minute: int = Field(default=80, ge=0, description="writes of one installation; 0: no limit")
    github_content_per_hour: int = Field(default=500, ge=0, description="the same by the hour")
    github_points_per_minute: int = Field(default=900, ge=0, description="a read is 1, a write 5; 0: no limit")

    profile: str = Field(default="small-24b", pattern=PROFILE)
    model: str | None = None
    model_api_key: SecretStr | None = None
    allow_remote_models: Annotated[tuple[str, ...], NoDecode] = Field(default=(), description="hosts, comma-separated")
    tekken_file: Path | None = Field(default=None, description="the model's own tokenizer file")
    price: Price | None = Field(default=None, description='JSON, USD per million: {"prompt": 0.1, "completion": 0.3}')
    limits: Limits = Limits()
    samples: int = Field(default=1, ge=1, le=MOST, description="tries of an issue whose repository does not say")
    max_samples: int = Field(default=4, ge=1, le=MOST, description="what a repository may ask for")
    samples_idle: int = Field(
        default=0, ge=0, le=MOST, description="so many in all while no other run waits for the profile; 0: no more"
    )
    critic: bool = Field(
        default=True, description="the model compares tries that differ; used where tests do not decide"
    )
    cascade: tuple[Annotated[str, Field(pattern=PROFILE)], ...] = Field(
        default=(), description="profiles in the order in which a run goes on where it failed; each needs its workers"
    )
    review: bool = Field(default=True, description="the model looks at its change once more before it is proposed")
    isolation: Isolation = Isolation.STRICT
    sandbox: SandboxBackend = Field(default="bwrap", description="container: docker or podman; runsc: experimental")
    sandbox_image: str | None = Field(default=None, description="for docker: an image with sh, coreutils and git")
    tools: tuple[Path, ...] = Field(
        default=(), description="directories of programs outside /usr that sandboxes are shown, such as a toolchain"
    )
    engine: dict[str, JsonValue] = Field(
        default_factory=dict, description="for vllm: models: single engine settings in place of the profile's, as JSON"
    )
    engine_untested: bool = Field(default=False, description="let other versions of vLLM through than the tested ones")
    gpu_slots: int | None = Field(
        default=None, gt=0, description="trajectories at once in one GPU worker; unset: 64 for vllm: models, else 8"
    )
    cpu_slots: int = Field(default=2, gt=0, description="verifications and set-ups at once in one CPU worker")

    egress_hosts: tuple[str, ...] = Field(
        default=(), description="what set-ups may reach besides the package indexes this machine's clients use"
    )
    egress_private_hosts: tuple[str, ...] = Field(
        default=(), description="the same, for hosts at private or loopback addresses"
    )

    lease_seconds: float = Field(default=60.0, gt=0)
    sweep_seconds: float = Field(default=10.0, gt=0)
    reconcile_seconds: float = Field(
        default=600.0, gt=0, description="how often GitHub is asked for labelled issues whose webhook never came"
    )
    max_attempts: int = Field(default=3, gt=0)
    setup_retry_seconds: float = Field(
        default=3600, ge=0, description="how long a repository's set-up that failed is not tried again"
    )
    cgroup: str | None = Field(
        default=None,
        description="path of a group that every control group hierarchy has and where groups may be made",
    )
    visibility_seconds: float = Field(
        default=7200, gt=0, description="Redis hands out a message again that was not acknowledged for so long"
    )
    metrics_listen: str | None = Field(
        default=None, description="host:port where this process shows its metrics to Prometheus; unset: nowhere"
    )
    otlp_endpoint: str | None = Field(
        default=None, description="base URL of an OTLP/HTTP collector that gets traces; unset: none are made"
    )
    notify_url: str | None = Field(default=None, description="gets a signed POST when a batch ends and on alarms")
    notify_secret: SecretStr | None = Field(default=None, description="what those are signed with")
    shutdown_grace_seconds: float = Field(
        default=60, ge=0, description="how long trajectories may take to reach the end of their step after SIGTERM"
    )
    commit_author: str = Field(
        default="devstral-fix <devstral-fix@users.noreply.github.com>",
        pattern=r"^[^<>\n\x00]{1,100} <[^<>@\s]{1,100}@[^<>@\s]{1,200}>$",
        description="of the service's commits; of the account whose key signs them, where they are to be verified",
    )
    signing_key_file: Path | None = Field(
        default=None, description="an Ed25519 key of SSH's, without a passphrase, that commits are signed with"
    )
    state_labels: bool = Field(default=True, description="show a run's state as a label on its issue")
    max_open_pull_requests: int = Field(
        default=10, ge=0, description="of ours in one repository; what is over it waits; 0: no cap"
    )
    max_pull_requests_per_day: int = Field(default=20, ge=0, description="the same, made in one UTC day; 0: no cap")
    check_runs: bool = Field(default=True, description="show the evidence as a check run, where an App may")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    repository_slots: int = Field(default=8, gt=0, description="runs of one repository at once, on all workers")
    repository_turn: int = Field(
        default=4,
        gt=0,
        description="runs of one repository that a GPU worker claims in a row, so that they share a prefix",
    )
    kv_tokens: int | None = Field(
        default=None, gt=0, description="tokens that the model server's KV memory holds for one GPU worker"
    )
    context_tokens: int = Field(default=32_000, gt=0, description="what a trajectory holds of them, in the mean")
    command_slots: int | None = Field(
        default=None, gt=0, description="sandboxed commands at once in one worker; unset: as many as it has cores"
    )
    keep_request_days: int = Field(default=30, gt=0, description="the text of a delivery, once it is handled")
    keep_delivery_days: int = Field(default=180, gt=0, description="a handled delivery's row, which tells repeats")
    keep_step_days: int = Field(default=180, gt=0, description="the steps of a run that ended; never its spends")
    keep_baseline_days: int = Field(
        default=30, gt=0, description="how a commit's tests ended; executed anew after that"
    )
    gpu_usd_per_hour: float | None = Field(
        default=None, ge=0, description="what this profile's GPUs cost; used for calls whose GPU time is known"
    )
    budget_global_usd_per_day: Decimal | None = Field(
        default=None, ge=0, le=99_999_999, description="UTC days; unset: no limit"
    )
    budget_installation_usd_per_day: Decimal | None = Field(default=None, ge=0, le=99_999_999)
    budget_repository_usd_per_day: Decimal | None = Field(default=None, ge=0, le=99_999_999)
    quarantine_hours: float = Field(default=24.0, gt=0, description="how long what failed repeatedly is not tried")
    equivalent_models: tuple[str, ...] = Field(
        default=("claude-sonnet-4.5", "gpt-5.1-codex-max"), description="at whose prices `spend` shows the same tokens"
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: Any) -> Any:
        # Compose files pass unset variables on as empty strings; an empty secret must never count as one.
        return {k: v for k, v in values.items() if v != ""} if isinstance(values, dict) else values

    @field_validator("allow_remote_models", mode="before")
    @classmethod
    def _hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(host.strip(" \"'") for host in value.strip(" []").split(",") if host.strip(" \"'"))

    @field_validator("cascade")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a profile stands in it twice")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_url(value.get_secret_value(), "DATABASE_URL", ("postgresql", "postgresql+psycopg"), path=r"/.+")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_url(value.get_secret_value(), "REDIS_URL", ("redis", "rediss", "unix"), path=r"|/|/[0-9]+")
        return value

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment once; SettingsError names each unusable variable."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            problems = "; ".join(
                f"{PREFIX}{'_'.join(str(part) for part in e['loc']).upper()}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors()
            )
            raise SettingsError(f"unusable settings: {problems}") from error
        except Undecodable as error:
            raise SettingsError(f"unusable settings: {error}: {error.__cause__}") from error

    def need(self, field: str) -> str:
        """The value of a field a command can't do without, as plain text."""
        value = getattr(self, field)
        if value is None:
            name = field.upper()
            raise SettingsError(f"{PREFIX}{name} is not set. Example: {PREFIX}{name}={EXAMPLES.get(name, '…')}")
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    @property
    def engine_model(self) -> Path | None:
        """The directory of a `vllm:` model; None for a model of another kind."""
        kind, _, rest = (self.model or "").partition(":")
        return Path(rest) if kind == "vllm" and rest else None

    @property
    def trajectories(self) -> int:
        """At once in one GPU worker. An engine's own admission says what its memory has room for: the slots are only
        more than that."""
        return self.gpu_slots or (ENGINE_SLOTS if self.engine_model is not None else SERVER_SLOTS)

    @property
    def prices(self) -> Price:
        """What this profile's calls cost: the setting, else the catalogue, else the small model's price; by GPU time
        where that has a price and the engine knows it."""
        price = self.price or of_profile(self.profile).price
        return price.model_copy(update={"gpu_hour": self.gpu_usd_per_hour or price.gpu_hour})
