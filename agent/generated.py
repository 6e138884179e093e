"""An answer's token ids as they were generated, small enough to be kept with every step.

Text says less than ids: several rows of tokens spell the same text, and only the very ones that were generated are what
an engine's cache knows.
"""

from __future__ import annotations

import zlib
from array import array
from base64 import b64decode, b64encode
from typing import Self

from pydantic import BaseModel, ConfigDict


class GeneratedIds(BaseModel):
    """`packed`: zlib over the ids as variable-length numbers (7 bits a byte, lowest first), in Base64. 300 tokens of
    code and prose take 584 bytes so, 653 as 32-bit numbers under zlib and 661 without it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: str  #: `agent.tokens.TokenCounter.vocabulary` of the one that they are ids of
    packed: str

    @classmethod
    def of(cls, ids: array[int], vocabulary: str) -> Self:
        return cls.stored(_pack(ids), vocabulary)

    @classmethod
    def stored(cls, data: bytes, vocabulary: str) -> Self:
        return cls(vocabulary=vocabulary, packed=b64encode(data).decode("ascii"))

    @property
    def data(self) -> bytes:
        return b64decode(self.packed)

    def ids(self) -> array[int]:
        """array("i"). Raises ValueError where they were not packed by this class."""
        return _unpack(self.data)


class _Packed(dict[int, bytes]):
    """A number's bytes, made when it is first asked for: as many as there are tokens in use."""

    def __missing__(self, token: int) -> bytes:
        out, left = bytearray(), token
        while left > 0x7F:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)
        self[token] = bytes(out)
        return self[token]


_PACKED = _Packed()


def _pack(ids: array[int]) -> bytes:
    return zlib.compress(b"".join(map(_PACKED.__getitem__, ids)), 9)


def _unpack(data: bytes) -> array[int]:
    try:
        plain = zlib.decompress(data)
    except zlib.error as error:
        raise ValueError(f"no packed token ids: {error}") from error
    ids, token, shift = array("i"), 0, 0
    for byte in plain:
        token |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            ids.append(token)
            token = shift = 0
    if shift:
        raise ValueError("the bytes end within a token id")
    return ids
