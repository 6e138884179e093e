"""Why an engine did not start, in the words of the process that knows. vLLM's processes only log it; whoever started
them hears that one has ended. They write it down here (`tether.py` asks them to), and the first to do so has the cause:
what follows are others that it took along."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "DEVSTRAL_FIX_ENGINE_CAUSE"
MOST = 500  # characters

# vLLM says both as a ValueError: that an option can't be, and that a GPU's memory is taken, perhaps by an engine that
# is just ending.
_OPTIONS = {"ValueError", "ValidationError", "VLLMValidationError", "TypeError", "NotImplementedError", "ImportError"}


class _Writes(logging.Handler):
    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        with suppress(OSError), Path(self._path).open("a", encoding="utf-8") as file:
            file.write(words(error) + "\n")


def words(error: BaseException) -> str:
    """One line: what was raised, and its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:MOST]}"


def tell() -> None:
    """In one of the engine's processes: what it logs with an exception is written down from now on."""
    if path := os.environ.get(VARIABLE):
        logging.getLogger("vllm").addHandler(_Writes(path))


@contextmanager
def heard() -> Iterator[Path]:
    """In the process that starts an engine: the file that `first` reads."""
    with tempfile.TemporaryDirectory(prefix="devstral-fix-engine-") as folder:
        path = Path(folder, "cause")
        os.environ[VARIABLE] = str(path)
        try:
            yield path
        finally:
            os.environ.pop(VARIABLE, None)


def first(path: Path) -> str | None:
    """The first cause that was written down, if any was."""
    with suppress(OSError):
        return next(iter(path.read_text(encoding="utf-8", errors="replace").splitlines()), None)
    return None


def may_pass(cause: str) -> bool:
    """Whether another start may fare better: not where an option is what is wrong."""
    kind, _, text = cause.partition(": ")
    return kind not in _OPTIONS or "memory" in text.lower()
