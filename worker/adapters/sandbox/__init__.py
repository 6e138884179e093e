"""Where strangers' commands run. `BwrapSandbox` is the default backend."""

from worker.adapters.sandbox.bwrap import BwrapSandbox
from worker.adapters.sandbox.bwrap_session import BwrapSession
from worker.adapters.sandbox.container import ContainerSandbox
from worker.adapters.sandbox.session import Objects

__all__ = ["BwrapSandbox", "BwrapSession", "ContainerSandbox", "Objects"]
