"""An event loop whose clock jumps to the next moment at which anything happens: hours pass in seconds, and the same
program does the same each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """For tasks that wait for each other and for time, and for nothing outside."""

    def __init__(self) -> None:
        self._virtual = 0.0
        super().__init__()

    def time(self) -> float:
        """Seconds since its start."""
        return self._virtual

    def _run_once(self) -> None:
        # asyncio's own names: a test notices when they change.
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._virtual = max(self._virtual, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """What `main` comes to, on a loop of its own that begins at 0 s; tasks that are left over are cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))
