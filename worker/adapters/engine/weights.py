"""Which weights a directory holds, without reading all of them: tens of gigabytes, at each start, on each host."""

from __future__ import annotations

import hashlib
from pathlib import Path

SETTINGS = ("params.json", "config.json", "tekken.json", "quantization_config.json", "hf_quant_config.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
PIECES = 64  # of each file, evenly spaced
PIECE = 4096  # bytes


def revision(model: Path) -> str:
    """Eight hexadecimal digits: the same for copies on any host, another once weights or settings were replaced, also
    by a training that leaves names, shapes and sizes as they are. A change of few values alone may go unseen. OSError.
    """
    seen = hashlib.sha256()
    for name in SETTINGS:
        if (model / name).is_file():
            seen.update(f"{name}\0".encode() + hashlib.sha256((model / name).read_bytes()).digest())
    for path in sorted(path for pattern in WEIGHTS for path in model.glob(pattern) if path.is_file()):
        size = path.stat().st_size
        seen.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for piece in range(PIECES):
                file.seek(max(0, size - PIECE) * piece // (PIECES - 1))
                seen.update(file.read(PIECE))
    return seen.hexdigest()[:8]
