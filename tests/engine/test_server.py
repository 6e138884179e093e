"""The contract of model servers against vLLM's own server, started once with the tiny model. What `vllm serve` runs is
started as a module: the CPU build's `vllm` command looks for a distribution of the GPU build's name, and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from agent.tokens import TokenCounter
from tests.model_server_contract import PARAMETERS, ModelServerContract, Wanted, dies, opened, until

START_SECONDS = 180
TOOL_CALLS, ARGS = 9, 32
CALL = f'<[{TOOL_CALLS}]> "bash" <[{ARGS}]> '
STRICT = json.dumps({"x-guidance": {"whitespace_flexible": False}, **PARAMETERS})


class Vllm:
    name = "tiny"
    key = SecretStr("sk-tiny-0123456789")
    window = 16_384
    tells_window = tells_cached = tells_usage = True
    cuts = any_name = False

    def __init__(self, model: Path, log: Path) -> None:
        self.counter = TokenCounter(model / "tekken.json")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._root = f"http://127.0.0.1:{port}"
        self.url = f"{self._root}/v1"
        options = {
            "model": model,
            "served-model-name": self.name,
            "host": "127.0.0.1",
            "port": port,
            "api-key": self.key.get_secret_value(),
            "tokenizer-mode": "mistral",
            "config-format": "mistral",
            "load-format": "dummy",
            "tool-call-parser": "mistral",
            "max-model-len": self.window,
            "max-num-seqs": 32,
            "dtype": "bfloat16",
            "block-size": 32,
            "kv-cache-memory-bytes": 64 << 20,
            "distributed-executor-backend": "uni",
        }
        flags = ("enable-auto-tool-choice", "enable-prompt-tokens-details", "enforce-eager")
        words = [*(f"--{name}={value}" for name, value in options.items()), *(f"--{flag}" for flag in flags)]
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes: set[psutil.Process] = set()

    def wait(self) -> None:
        started = time.monotonic()
        while not self._healthy():
            assert self._process.poll() is None, self.log.read_text("utf-8", "replace")[-4000:]
            assert time.monotonic() - started < START_SECONDS, self.log.read_text("utf-8", "replace")[-4000:]
            time.sleep(0.2)  # it does not say when it listens
        own = psutil.Process(self._process.pid)
        self._processes = {own, *own.children(recursive=True)}

    def extra(self, wanted: Wanted) -> dict[str, Any]:
        if wanted.endless:
            return {"ignore_eos": True}
        if wanted.broken:
            grammar = f'start: {CALL}"{{\\"command\\": \\"l"'
        elif wanted.calls:
            grammar = f"start: {' '.join(['call'] * wanted.calls)}\ncall: {CALL}%json {STRICT}"
        else:
            grammar = f"start: {json.dumps(wanted.text)}"
        return {"structured_outputs": {"grammar": grammar + "\n"}}

    def running(self) -> int:
        with urllib.request.urlopen(f"{self._root}/metrics", timeout=5) as answer:
            found = re.search(r"^vllm:num_requests_running\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found
        return int(float(found[1]))

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def end(self) -> None:
        """With all its children, which are looked for: none may be left."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        gone = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        until(lambda: not any(p.is_running() and p.status() not in gone for p in self._processes))

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._root}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    server = Vllm(tiny_model, tmp_path_factory.mktemp("server") / "vllm.log")
    try:
        server.wait()
        yield server
    finally:
        server.end()


class TestVllmServer(ModelServerContract):
    test_an_answer_is_shortened_to_what_the_window_leaves = pytest.mark.slow(
        ModelServerContract.test_an_answer_is_shortened_to_what_the_window_leaves
    )
    test_a_prompt_that_is_too_long_ends_the_trajectory = pytest.mark.slow(
        ModelServerContract.test_a_prompt_that_is_too_long_ends_the_trajectory
    )
    test_conversations_at_once_do_not_mix = pytest.mark.slow(ModelServerContract.test_conversations_at_once_do_not_mix)
    test_a_conversation_that_is_restored_goes_on_as_the_one_before = pytest.mark.slow(
        ModelServerContract.test_a_conversation_that_is_restored_goes_on_as_the_one_before
    )

    def test_it_is_known_by_name(self, site: Vllm) -> None:
        with opened(site) as model:
            assert model.window == site.window
            card = model.client.seen.card
            assert card is not None
            assert card.server is not None
            assert card.server.name == "vLLM"


def test_a_server_that_dies_fails_its_calls_for_now(site: Vllm) -> None:
    """The last one: the server is gone after it."""
    dies(site, site.kill)
