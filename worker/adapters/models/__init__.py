"""Models behind the conversation port: the specification of one, and the adapter it opens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from agent.protocols import Model
from agent.tokens import TokenCounter
from worker.errors import SettingsError

EXAMPLES = "scripted:worker/demo/script.json, vllm:/models/devstral, or openai:http://127.0.0.1:8000/v1#devstral"


class OpenedModel(Model, Protocol):
    """A model that its opener closes."""

    @property
    def lacking(self) -> Sequence[str]:
        """What its server was seen not to give so far, and what comes of it, for people."""

    def close(self) -> None: ...


def open_model(
    spec: str,
    *,
    counter: TokenCounter,
    allow_remote: Collection[str] = (),
    api_key: SecretStr | None = None,
) -> OpenedModel:
    """The model of `spec`: `scripted:FILE` or `openai:BASE_URL#NAME`. Nothing is sent anywhere yet.

    `allow_remote`: hosts outside private address ranges that may be talked to. `api_key`: for `openai:`, sent to that
    server only. Raises SettingsError for a specification that can't be used, and ModelUnavailable when the server's
    name doesn't resolve now.
    """
    kind, _, rest = spec.partition(":")
    if kind == "scripted" and rest:
        from worker.adapters.models.scripted import ScriptedModel  # noqa: PLC0415  # one adapter is enough to load

        return ScriptedModel.from_file(Path(rest), counter)
    if kind == "openai" and rest:
        from worker.adapters.models.address import check_address  # noqa: PLC0415
        from worker.adapters.models.openai_server import OpenAIModel  # noqa: PLC0415  # its client takes a second

        url, _, name = rest.partition("#")
        if not name:
            raise SettingsError("an openai: model needs the model's name after a #; use one of: " + EXAMPLES)
        return OpenAIModel(check_address(url, allow_remote), name, counter, api_key=api_key)
    if kind == "vllm" and rest:
        raise SettingsError(
            "a vllm: model runs inside a GPU worker (`up`, `work`) or `fix`; here a server is needed: start"
            f" `vllm serve` and use {EXAMPLES.rpartition(' ')[2]}"
        )
    raise SettingsError(f"no model is called {kind + ':' if rest else kind!r}; use one of: {EXAMPLES}")
