"""A set-up's way out: the proxy on the host, its socket and the bridge in one folder that a sandbox is shown."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.protocols import Mount
from worker.adapters.egress import bridge, folders
from worker.adapters.egress.indexes import Indexes, ask
from worker.adapters.egress.policy import Policy
from worker.adapters.egress.proxy import EgressProxy, Resolve, resolve
from worker.errors import SandboxUnavailable
from worker.stages.ports import Blocked

_INSIDE = "/run/egress"


@dataclass(frozen=True)
class OpenWay:
    """The `WayOut` port."""

    folder: Path
    proxy: EgressProxy
    env: Mapping[str, str]

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (Mount(source=self.folder, target=_INSIDE),)

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["python3", "-I", f"{_INSIDE}/bridge.py", f"{_INSIDE}/proxy.sock", "--", *argv]

    @property
    def blocked(self) -> tuple[Blocked, ...]:
        return self.proxy.blocked


class ProxyEgress:
    """The `Egress` port: a proxy per set-up. `root` holds the sockets' folders and is made at first use; what set-ups
    left whose process died is removed at the start, and whenever a way is opened.

    `policy.hosts` are in addition to those of `ask()`, what the package clients of this machine say they use; they
    are asked when it first matters, and their answer is kept.
    """

    def __init__(
        self, root: Path, policy: Policy, ask: Callable[[], Indexes] = ask, *, resolve: Resolve = resolve
    ) -> None:
        self._root = root
        self._given = policy
        self._ask = ask
        self._resolve = resolve
        self._asking = threading.Lock()
        self._asked: Indexes | None = None
        folders.sweep(root)

    @property
    def _indexes(self) -> Indexes:
        with self._asking:
            if self._asked is None or not self._asked.hosts:  # none answered, perhaps for want of time: asked again
                self._asked = self._ask()
            return self._asked

    @property
    def _policy(self) -> Policy:
        hosts = tuple(dict.fromkeys((*self._given.hosts, *self._indexes.hosts)))
        return Policy(hosts=hosts, private=self._given.private, caps=self._given.caps)

    @property
    def policy(self) -> str:
        policy = self._policy
        listed = [*map(str, policy.hosts), *(f"private {host}" for host in policy.private)]
        return "\n".join([*sorted(listed), *(f"{k}={v}" for k, v in sorted(self._indexes.env.items()))])

    @property
    def refusal(self) -> str | None:
        policy = self._policy
        if policy.hosts or policy.private:
            return None
        return (
            "no package client on the service's machine says which index it uses, and DEVSTRAL_FIX_EGRESS_HOSTS names "
            "no host: a set-up may reach nothing"
        )

    @contextmanager
    def open(self) -> Iterator[OpenWay]:
        """SandboxUnavailable when the folder or the socket can't be made."""
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(folders.held(self._root)) / "shown"
                folder.mkdir()
                folder.chmod(0o755)
                shutil.copyfile(bridge.__file__, folder / "bridge.py")
                (folder / "bridge.py").chmod(0o644)
            except OSError as e:
                raise SandboxUnavailable(f"the egress folder could not be made: {e}") from e
            proxy = stack.enter_context(EgressProxy(folder / "proxy.sock", self._policy, resolve=self._resolve))
            yield OpenWay(folder, proxy, dict(self._indexes.env))
