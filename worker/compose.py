"""Where ports meet adapters, here and nowhere else: each function makes one part of a process from the settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.protocols import Model, Sandbox
from agent.tokens import TokenCounter
from agent.tools import default_tools
from agent.types import Limits
from worker.adapters.egress import BadHost, HostPattern, Policy, ProxyEgress, ask
from worker.adapters.engine.options import EngineOptions
from worker.adapters.forge import ClientOptions, Gate, GitHubForges, Passages, Rates
from worker.adapters.hook import WebhookNotifier
from worker.adapters.layers import DiskLayers
from worker.adapters.models import OpenedModel, open_model
from worker.adapters.repos import GitRepositories
from worker.adapters.sandbox import BadTool, BwrapSandbox, ContainerSandbox, ToolSandbox
from worker.errors import SettingsError
from worker.observe import Metrics, Tracing, Watch
from worker.profiles import profile
from worker.runs.accounts import DayLimits
from worker.runs.caps import Caps
from worker.runs.tries import Samples
from worker.settings import EXAMPLES, PREFIX, Settings
from worker.stages.attempt import Solver


def engine_options(settings: Settings, model: Path) -> EngineOptions:
    """Of a `vllm:` model: the profile's, under the single ones that are set. SettingsError names what is none."""
    return EngineOptions(model=model.absolute(), **profile(settings.profile).engine(settings.engine).options)


def check_model(settings: Settings) -> None:
    """What can be known of the model without starting an engine. SettingsError."""
    if settings.engine_model is not None:
        from worker.adapters.engine.opening import check_before  # noqa: PLC0415  # a second that no other model needs

        options = engine_options(settings, settings.engine_model)
        check_before(options, untested_ok=settings.engine_untested)
    else:
        make_model(settings).close()


def make_model(
    settings: Settings,
    counter: TokenCounter | None = None,
    *,
    on_death: Callable[[str], None] = lambda _: None,
    watch: Watch | None = None,
) -> OpenedModel:
    """A `vllm:` model is an engine in this process, started when this returns; `on_death` is told of its death."""
    if settings.engine_model is not None:
        from worker.adapters.engine.opening import Use, open_engine  # noqa: PLC0415

        options = engine_options(settings, settings.engine_model)
        use = Use(
            run_tokens=min(settings.limits.context_tokens, options.max_model_len),
            mean_context=settings.context_tokens,
            untested_ok=settings.engine_untested,
        )
        watch = watch or Watch()
        return open_engine(options, use, on_death=on_death, waited=watch.admitted, told=watch.metrics.generated)
    return open_model(
        settings.need("model"),
        counter=counter or TokenCounter(settings.tekken_file),
        allow_remote=settings.allow_remote_models,
        api_key=settings.model_api_key,
    )


def make_forges(settings: Settings, watch: Watch | None = None) -> GitHubForges:
    """GitHub as the App when one is configured, else with a personal token. All workers that share a Redis share its
    limits."""
    options, watch = client_options(settings), watch or Watch()
    passages = Passages(gate=_gate(settings, options, watch), told=watch.forge_answered)
    if settings.github_app_id is not None:
        key = Path(settings.need("github_app_key_file"))
        return GitHubForges.for_app(settings.github_app_id, key, options, passages)
    if settings.github_token is not None:
        return GitHubForges.for_token(settings.github_token, options, passages)
    settings.need("github_app_id")
    raise AssertionError("need() raises for an unset field")


def client_options(settings: Settings) -> ClientOptions:
    return ClientOptions(api_url=settings.github_url, git_base_url=settings.git_base_url)


def _gate(settings: Settings, options: ClientOptions, watch: Watch) -> Gate:
    rates = Rates(
        content_per_minute=settings.github_content_per_minute,
        content_per_hour=settings.github_content_per_hour,
        points_per_minute=settings.github_points_per_minute,
    )
    shared = None if settings.redis_url is None else settings.redis_url.get_secret_value()
    return Gate(rates, redis_url=shared, max_wait=options.max_wait, waited=watch.forge_waited)


def make_sandbox(settings: Settings, data_dir: Path, repositories: GitRepositories) -> Sandbox:
    """What the settings ask for, its sessions below `data_dir`. SettingsError names a tool that can't be shown."""
    sandbox = _backend(settings, data_dir, repositories)
    if not settings.tools:
        return sandbox
    try:
        return ToolSandbox(sandbox, settings.tools, never=(Path.home(), settings.data_dir, data_dir))
    except BadTool as error:
        raise SettingsError(f"{PREFIX}TOOLS: {error}. Example: {PREFIX}TOOLS={EXAMPLES['TOOLS']}") from error


def _backend(settings: Settings, data_dir: Path, repositories: GitRepositories) -> Sandbox:
    isolation, backend, image = settings.isolation, settings.sandbox, settings.sandbox_image
    if backend == "bwrap":
        return BwrapSandbox(data_dir / "workspaces", isolation=isolation, objects=repositories, cgroup=settings.cgroup)
    runtime = "runsc" if backend == "runsc" else None
    return ContainerSandbox(
        data_dir / "containers", isolation=isolation, objects=repositories, runtime=runtime, image=image
    )


def make_repositories(data_dir: Path, *, allow_file: bool = False, signing_key: Path | None = None) -> GitRepositories:
    return GitRepositories(data_dir / "repositories", allow_file=allow_file, signing_key=signing_key)


def signing_key(settings: Settings) -> Path | None:
    """What commits are signed with. SettingsError where that can't be: a key of another kind, or with a passphrase."""
    path = settings.signing_key_file
    if path is None:
        return None
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{PREFIX}SIGNING_KEY_FILE: {path} can't be used ({error}). {_MAKE_KEY}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{PREFIX}SIGNING_KEY_FILE: {path} is no Ed25519 key. {_MAKE_KEY}")
    if shutil.which("ssh-keygen") is None:
        raise SettingsError(f"{PREFIX}SIGNING_KEY_FILE: git signs with ssh-keygen, which this machine lacks")
    return path.absolute()


_MAKE_KEY = "Make one with: ssh-keygen -t ed25519 -N '' -f signing-key"


def make_layers(settings: Settings, data_dir: Path | None = None) -> DiskLayers:
    return DiskLayers(
        (data_dir or settings.data_dir) / "setups",
        retry_seconds=settings.setup_retry_seconds,
        machine=[str(folder.resolve()) for folder in settings.tools],
    )


def make_egress(settings: Settings) -> ProxyEgress:
    """SettingsError names the setting with an entry that is no host."""
    patterns = {}
    for field in ("egress_hosts", "egress_private_hosts"):
        try:
            patterns[field] = tuple(map(HostPattern.parse, getattr(settings, field)))
        except BadHost as error:
            raise SettingsError(f"{PREFIX}{field.upper()}: {error}. Example: {EXAMPLES[field.upper()]}") from error
    programs = [
        *(str(path) for folder in settings.tools for path in (folder / "bin", folder)),
        os.environ.get("PATH", ""),
    ]
    environment = {**os.environ, "PATH": os.pathsep.join(programs)}  # the clients that a set-up will run are asked
    policy = Policy(hosts=patterns["egress_hosts"], private=patterns["egress_private_hosts"])
    return ProxyEgress(settings.data_dir.absolute() / "egress", policy, lambda: ask(environment))


def make_solver(settings: Settings, sandbox: Sandbox, repositories: GitRepositories, model: Model) -> Solver:
    return Solver(
        model=model,
        sandbox=sandbox,
        repositories=repositories,
        limits=limits(settings),
        price=settings.prices,
        remote=remote_server(settings),
        review=settings.review,
    )


def remote_server(settings: Settings) -> str | None:
    """Where the repository's code would go, if that is outside private addresses; None where it stays inside."""
    kind, _, rest = (settings.model or "").partition(":")
    if kind != "openai":
        return None
    from worker.adapters.models.address import check_address  # noqa: PLC0415

    address = check_address(rest.partition("#")[0], settings.allow_remote_models)
    return address.place if address.remote else None


def limits(settings: Settings) -> Limits:
    """No call asks for more context than the engine was started with."""
    asked = settings.limits
    if settings.engine_model is None:
        return asked
    longest = engine_options(settings, settings.engine_model).max_model_len
    return asked.model_copy(update={"context_tokens": min(asked.context_tokens, longest)})


def day_limits(settings: Settings) -> DayLimits:
    return DayLimits(
        repository=settings.budget_repository_usd_per_day,
        installation=settings.budget_installation_usd_per_day,
        everything=settings.budget_global_usd_per_day,
    )


def samples(settings: Settings) -> Samples:
    return Samples(each=settings.samples, most=settings.max_samples, idle=settings.samples_idle, critic=settings.critic)


def caps(settings: Settings) -> Caps:
    return Caps(open=settings.max_open_pull_requests, day=settings.max_pull_requests_per_day)


def make_watch(settings: Settings, role: str) -> Watch:
    tools = frozenset(tool.name for tool in default_tools(settings.limits))
    return Watch(metrics=Metrics(tools=tools), tracing=Tracing.to(settings.otlp_endpoint, role=role))


def make_notifier(settings: Settings, stack: ExitStack) -> WebhookNotifier | None:
    if settings.notify_url is None:
        return None
    notifier = WebhookNotifier(settings.notify_url, settings.notify_secret)
    stack.callback(notifier.close)
    return notifier
