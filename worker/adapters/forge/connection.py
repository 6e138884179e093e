"""What the parts of a forge share: the repository, who we are, and a client."""

from __future__ import annotations

from github import Github
from github.NamedUser import NamedUser
from github.Organization import Organization

from worker.adapters.forge.auth import Identity
from worker.adapters.forge.client import ClientOptions, connect
from worker.adapters.forge.passage import Passage


class Connection:
    """To one repository; for one thread."""

    def __init__(
        self,
        repository: str,
        installation_id: int | None,
        identity: Identity,
        options: ClientOptions,
        passage: Passage,
    ) -> None:
        self._name = repository
        self._installation_id = installation_id
        self._identity = identity
        self._options = options
        self._passage = passage
        self._client = connect(identity.api_auth(repository, installation_id), options, passage)
        self._repo = self._client.get_repo(repository)
        self._checks: Github | None = None


def author_of(user: NamedUser | Organization | None) -> str:
    return user.login if user is not None else "ghost"  # what GitHub shows for a deleted account
