"""What contexts have in common at their beginning, found in the token ids: it is held once, and counts once."""

from __future__ import annotations

import bisect
from array import array
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

CHUNK = 256  # tokens; what is shared beyond the last whole one counts for each

Chain = Sequence[bytes]
"""A name for each chunk of a context, which says everything before it, too."""


def chain(ids: array[int]) -> Chain:
    names, name = [], b""
    for start in range(0, len(ids) - CHUNK + 1, CHUNK):
        name = blake2b(name + ids[start : start + CHUNK].tobytes(), digest_size=16).digest()
        names.append(name)
    return names


class Prefixes:
    """Of all contexts that are held. Not safe for threads."""

    def __init__(self) -> None:
        self._users: Counter[bytes] = Counter()
        self._common = 0

    def add(self, names: Chain) -> None:
        for name in names:
            self._users[name] += 1
            self._common += self._users[name] == 2

    def remove(self, names: Chain) -> None:
        for name in names:
            self._common -= self._users[name] == 2
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    @property
    def common(self) -> int:
        """Tokens that more than one of them begins with; those that only some share, too."""
        return self._common * CHUNK

    def overlap(self, names: Chain) -> int:
        """Tokens of this one, which is among them, that others begin with, too."""
        return bisect.bisect_left(names, x=True, key=lambda name: self._users[name] < 2) * CHUNK
