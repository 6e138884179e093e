"""The npm package `emulate` (a stateful GitHub API emulator) as a child process: seed, start, readiness, stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PRELOAD = Path(__file__).with_name("stop_with_parent.cjs")
_REPOSITORY_ROOT = Path(__file__).resolve().parents[3]
_ATTEMPTS = 3


class EmulateMissing(RuntimeError):
    """The npm package isn't installed; the message says how to."""


def entry_point(node_modules: Path | None = None) -> Path:
    """The script that starts emulate. EmulateMissing where the locked npm packages aren't installed."""
    script = (node_modules or _REPOSITORY_ROOT / "node_modules") / "emulate" / "dist" / "index.js"
    if not script.is_file():
        raise EmulateMissing(f"the npm package `emulate` is not at {script}; run `make setup` (or `npm ci`)")
    return script


class Emulator:
    """One emulate process. Its words go to `log_file`; it ends with `stop()` or when this process ends.

    `probe` is a (token, login) pair of the seed: being answered as that login proves that it is our process that
    listens, not another one that took the port first.
    """

    def __init__(
        self,
        *,
        node: Sequence[str],
        node_modules: Path | None,
        directory: Path,
        seed: Mapping[str, Any],
        base_url: str,
        probe: tuple[str, str],
        log_file: Path,
        start_seconds: float = 30.0,
    ) -> None:
        script = entry_point(node_modules)
        seed_file = directory / "seed.yaml"
        create_private(seed_file, json.dumps(seed))  # JSON is YAML, and emulate tells them apart by the name
        create_private(log_file)  # emulate prints the tokens it knows
        self._process: subprocess.Popen[bytes] | None = None
        try:
            for _ in range(_ATTEMPTS):
                port = _free_port()
                arguments = ["start", "--service", "github", "--port", str(port), "--base-url", base_url]
                command = [*node, "--require", str(_PRELOAD), str(script), *arguments, "--seed", str(seed_file)]
                with log_file.open("ab") as log:
                    self._process = subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=directory, env=_environment()
                    )
                self.url = f"http://127.0.0.1:{port}"
                if self._wait(probe, start_seconds):
                    return
                self.stop()
        except BaseException:
            self.stop()
            raise
        finally:
            seed_file.unlink()  # it holds the App's key
        tail = log_file.read_text(errors="replace")[-1500:]
        raise RuntimeError(f"emulate did not start within {start_seconds} s; its last words:\n{tail}")

    def _wait(self, probe: tuple[str, str], seconds: float) -> bool:
        assert self._process is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            if self._answers(probe):
                return True
            time.sleep(0.02)  # between two looks at a port nobody announces
        return False

    def _answers(self, probe: tuple[str, str]) -> bool:
        token, login = probe
        request = urllib.request.Request(f"{self.url}/user", headers={"Authorization": f"token {token}"})  # noqa: S310
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2) as response:
                return bool(json.load(response).get("login") == login)
        except (OSError, ValueError):
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None, "stopped"
        return self._process.pid

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def create_private(path: Path, text: str = "") -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        os.fchmod(file.fileno(), 0o600)  # also where it was there before
        file.write(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return {**kept, "NO_COLOR": "1"}
