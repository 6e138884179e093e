"""Where strangers' commands run. `BwrapSandbox` is the default backend."""

from worker.adapters.sandbox.bwrap import BwrapSandbox
from worker.adapters.sandbox.bwrap_session import BwrapSession
from worker.adapters.sandbox.container import ContainerSandbox
from worker.adapters.sandbox.session import Objects
from worker.adapters.sandbox.tools import BadTool, ToolSandbox

__all__ = ["BadTool", "BwrapSandbox", "BwrapSession", "ContainerSandbox", "Objects", "ToolSandbox"]
