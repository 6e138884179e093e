"""Keep the head and the tail of a stream, count the rest, and make it fit for logs, prompts and terminals."""

from __future__ import annotations

import re

from agent.protocols import Captured

# C0 without tab and newline, DEL, C1; and the lone surrogates that JSON and Postgres refuse.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Stream:
    """At most `keep` bytes: the first half as they came, then the last half. `total` counts all that were fed."""

    def __init__(self, keep: int) -> None:
        self._head_size = (keep + 1) // 2
        self._tail_size = keep // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_size - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > self._tail_size:
            del self._tail[: len(self._tail) - self._tail_size]

    @property
    def elided(self) -> int:
        return self.total - len(self._head) - len(self._tail)

    @property
    def whole(self) -> bytes | None:
        """Every byte, or None when some were dropped."""
        return None if self.elided else bytes(self._head + self._tail)

    def captured(self) -> Captured:
        if not self.elided:
            return Captured(text=readable(bytes(self._head + self._tail)), total_bytes=self.total)
        text = f"{readable(bytes(self._head))}\n[… {self.elided} bytes left out …]\n{readable(bytes(self._tail))}"
        return Captured(text=text, total_bytes=self.total, elided_bytes=self.elided)


def readable(data: bytes) -> str:
    """UTF-8 with what can't be decoded and control characters replaced; carriage returns become line ends."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("\ufffd", text)
