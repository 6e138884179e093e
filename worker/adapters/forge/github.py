"""One repository on GitHub, as the stages of a run see it."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import github
from pydantic import SecretStr

from worker.adapters.forge.auth import AppIdentity, Identity, TokenIdentity
from worker.adapters.forge.border import translated
from worker.adapters.forge.checks import Checks
from worker.adapters.forge.client import ClientOptions
from worker.adapters.forge.issues import Issues
from worker.adapters.forge.passage import Passages
from worker.adapters.forge.pulls import Pulls
from worker.adapters.forge.reviews import Reviews
from worker.errors import ForgeRefused
from worker.stages.forge import Forge, RepositoryInfo

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/(?!\.{1,2}$)[A-Za-z0-9._-]+")
_ROLES = ("admin", "maintain", "write", "triage", "read", "none")


class GitHubForges:
    """Forges that share an identity and its tokens. Safe to use from several threads; a forge is for one."""

    def __init__(self, identity: Identity, options: ClientOptions, passages: Passages) -> None:
        self._identity = identity
        self._options = options
        self._passages = passages

    @classmethod
    def for_app(
        cls, app_id: int, private_key: Path, options: ClientOptions | None = None, passages: Passages | None = None
    ) -> GitHubForges:
        """SettingsError when the key can't be read or is none."""
        options, passages = options or ClientOptions(), passages or Passages()
        return cls(AppIdentity(app_id, private_key, options, passages), options, passages)

    @classmethod
    def for_token(
        cls, token: SecretStr, options: ClientOptions | None = None, passages: Passages | None = None
    ) -> GitHubForges:
        """With a personal access token; SettingsError when it is empty."""
        options, passages = options or ClientOptions(), passages or Passages()
        return cls(TokenIdentity(token, options, passages), options, passages)

    def open(self, repository: str, installation_id: int | None) -> Forge:
        """Asks GitHub nothing yet. Without an `installation_id` an App looks its own up when it first needs it."""
        if not _NAME.fullmatch(repository):
            raise ForgeRefused(f"not a repository name: {repository[:200]!r}")
        passage = self._passages.of(lambda: self._identity.account(repository, installation_id))
        return GitHubForge(repository, installation_id, self._identity, self._options, passage)

    def installed(self) -> Sequence[tuple[str, int]]:
        return self._identity.installed()


class GitHubForge(Issues, Pulls, Reviews, Checks):
    """Parts by what they touch; this class is the repository itself."""

    def login(self) -> str:
        return self._identity.login()

    def repository(self) -> RepositoryInfo:
        with translated(f"read {self._name}"):
            found = self._client.get_repo(self._name)  # anew: PyGithub keeps what an object once read
            base = self._options.git_base_url
            return RepositoryInfo(
                full_name=found.full_name,
                default_branch=found.default_branch,
                archived=found.archived,
                disabled=bool(found.disabled),
                clone_url=found.clone_url if base is None else f"{base.rstrip('/')}/{found.full_name}.git",
            )

    def permission(self, login: str) -> str:
        path = f"/repos/{self._name}/collaborators/{urllib.parse.quote(login, safe='')}/permission"
        with translated(f"read the permission of {login} on {self._name}"):
            try:
                _, data = self._client.requester.requestJsonAndCheck("GET", path)
            except github.UnknownObjectException:
                return "none"
            # `permission` knows only admin, write, read and none; a custom role's name is none of ours.
            for role in (data.get("role_name"), data.get("permission")):
                if role in _ROLES:
                    return str(role)
            return "none"

    def git_token(self, access: Literal["read", "write"]) -> SecretStr:
        return self._identity.git_token(self._name, self._installation_id, access)
