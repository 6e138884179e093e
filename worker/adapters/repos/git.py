"""Run git on the host: an environment of our own, no configuration but ours, a time limit on every call."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from worker.errors import RepositoryRefused, RepositoryUnavailable, ServiceError

# What a company network needs to be reached at all; nothing else of the service's environment goes to git.
NETWORK_ENV = (
    "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
)  # fmt: skip

# The empty tree: where newer git looks for attributes, so that a stranger's .gitattributes never shape a diff.
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    f"attr.tree={_EMPTY_TREE}",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.unpackLimit=1",  # always a pack: `tidy` counts them, and a workspace opens faster than with loose objects
    "credential.helper=",
    "http.followRedirects=false",  # a redirect would carry the token to another host
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "protocol.allow=never",
)

_REFUSED = (
    "authentication failed", "could not read username", "could not read password", "error: 401", "error: 403",
    "error: 404", "error: 410", "error: 30", "not found", "does not appear to be a git repository",
    "does not exist", "permission denied", "not allowed", "unable to update url base from redirection", "[rejected]",
    "[remote rejected]", "pre-receive hook declined", "protected branch", "stale info", "access denied", "dumb http",
)  # fmt: skip
_TRANSIENT = (
    "could not resolve host", "connection refused", "connection reset", "timed out", "error: 5", "error: 429",
    "early eof", "failed to connect", "couldn't connect", "unexpected disconnect", "operation too slow",
)  # fmt: skip


class GitFailed(Exception):
    """git ended with an error; `stderr` is scrubbed of tokens."""

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(stderr.strip()[-2000:] or f"git ended with {returncode}")
        self.returncode = returncode
        self.stderr = stderr


class Git:
    """`timeout` is seconds of one local call, `network_timeout` of one that talks to a server."""

    def __init__(self, *, allow_file: bool, timeout: float, network_timeout: float) -> None:
        self._protocols = ("http", "https", "file") if allow_file else ("http", "https")
        self._timeout = timeout
        self._network_timeout = network_timeout
        self._network_env = {name: os.environ[name] for name in NETWORK_ENV if name in os.environ}

    def run(
        self,
        git_dir: Path | None,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        settings: Sequence[str] = (),
    ) -> bytes:
        """A call that touches no network; its stdout. Raises GitFailed, or RepositoryUnavailable on a timeout."""
        return self._call(git_dir, args, stdin, dict(env or {}), settings, secrets=(), timeout=self._timeout)

    def network(self, git_dir: Path | None, url: str, token: SecretStr | None, *args: str) -> bytes:
        """A call that talks to `url` (which `args` names too). Raises RepositoryRefused or RepositoryUnavailable."""
        self.check_url(url)
        env = dict(self._network_env)
        secrets: tuple[str, ...] = ()
        if token is not None and urlsplit(url).scheme in {"http", "https"}:
            check_confidential(url)
            value = token.get_secret_value()
            encoded = base64.b64encode(f"x-access-token:{value}".encode()).decode()
            parts = urlsplit(url)
            # The key names the server, so that git itself sends the header nowhere else.
            env |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {encoded}",
            }
            secrets = (value, encoded)
        protocols = [f"protocol.{name}.allow=always" for name in self._protocols]
        try:
            return self._call(git_dir, args, b"", env, protocols, secrets=secrets, timeout=self._network_timeout)
        except GitFailed as e:
            raise classify(e) from e

    def check_url(self, url: str) -> None:
        """RepositoryRefused unless `url` is of an allowed protocol and holds no credentials."""
        parts = urlsplit(url)
        if parts.scheme not in self._protocols:
            raise RepositoryRefused(f"a {parts.scheme or 'local'} address is not allowed; use {self._protocols}")
        if parts.username is not None or parts.password is not None:
            raise RepositoryRefused("a repository's address must not hold credentials")

    def _call(
        self,
        git_dir: Path | None,
        args: Sequence[str],
        stdin: bytes,
        extra: Mapping[str, str],
        settings: Sequence[str],
        *,
        secrets: Sequence[str],
        timeout: float,
    ) -> bytes:
        argv = ["git", *(() if git_dir is None else (f"--git-dir={git_dir}",))]
        for setting in (*_SETTINGS, *settings):
            argv += ["-c", setting]
        try:
            process = subprocess.Popen(
                [*argv, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment(), **extra},
                cwd="/",
                umask=0o022,  # a sandbox of another uid reads these objects
                start_new_session=True,
            )
        except OSError as e:
            raise RepositoryUnavailable(f"git could not be started: {e}") from e
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as e:
            raise RepositoryUnavailable(f"git {args[0]} took longer than {timeout:.0f} s") from e
        finally:
            if process.returncode is None:  # git's transports are children of it: the whole group goes
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if process.returncode != 0:
            raise GitFailed(process.returncode, scrub(err.decode("utf-8", "replace"), secrets))
        return out


def environment() -> dict[str, str]:
    """All that git sees of a process environment on the host."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
    }


def check_confidential(url: str) -> None:
    """RepositoryRefused where a token would cross a network unencrypted."""
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise RepositoryRefused(f"a token is sent to {parts.hostname} over https only; its address begins with http:")


def scrub(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def classify(failure: GitFailed) -> ServiceError:
    """Whether trying again may help, from git's English words (LC_ALL=C)."""
    text = failure.stderr.lower()
    if any(word in text for word in _TRANSIENT):
        return RepositoryUnavailable(str(failure))
    if any(word in text for word in _REFUSED):
        return RepositoryRefused(str(failure))
    return RepositoryUnavailable(str(failure))
