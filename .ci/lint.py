"""Runs every static check, shows what failed, and ends with a line that counts them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
# All that docker-compose.yml may ask for (an installation with a token has no App's key); any value will do to check
# its shape.
COMPOSE = "docker-compose.yml"
COMPOSE_VARIABLES = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")
LOCKS = ("requirements/*.txt", "package-lock.json")
# An address of a registry or index, or a path of one machine; a package's funding page is none.
NAMED_PLACE = re.compile(r'"resolved":|--(?:extra-)?index-url|--find-links|@ \S*:|file:')


@dataclass(frozen=True)
class Result:
    name: str
    verdict: str
    """`passed`, `failed` or `skipped`."""
    output: str
    seconds: float = 0.0


def program(name: str, *command: str) -> Callable[[], Result]:
    def run() -> Result:
        start = time.monotonic()
        environment = os.environ | dict.fromkeys(COMPOSE_VARIABLES, "checked")
        done = subprocess.run(
            [str(BIN / command[0]) if (BIN / command[0]).exists() else command[0], *command[1:]],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        verdict = "failed" if done.returncode else "passed"
        return Result(name, verdict, done.stdout, time.monotonic() - start)

    return run


def compose_config() -> Result:
    name = "docker compose config"
    if shutil.which("docker") is None:
        return Result(name, "skipped", "there is no docker on this machine")
    probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if probe.returncode:
        return Result(name, "skipped", "docker has no compose plugin on this machine")
    return program(name, "docker", "compose", "--profile", "*", "config", "--quiet")()


def compose_variables() -> Result:
    text = (ROOT / COMPOSE).read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):?\?", text))
    wrong = [f"docker-compose.yml can't be used without {name}" for name in sorted(asked - set(COMPOSE_VARIABLES))]
    wrong += [f"docker-compose.yml does not ask for {name}" for name in sorted(set(COMPOSE_VARIABLES) - asked)]
    return Result("compose asks for no more than it needs", "failed" if wrong else "passed", "\n".join(wrong))


def locks_name_no_place() -> Result:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for pattern in LOCKS
        for path in sorted(ROOT.glob(pattern))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if NAMED_PLACE.search(line)
    ]
    return Result("locks name no registry", "failed" if found else "passed", "\n".join(found))


CHECKS: list[Callable[[], Result]] = [
    program("mypy", "mypy"),
    program("alembic check", "python", ".ci/schema.py"),
    program("ruff check", "ruff", "check", "."),
    program("ruff format", "ruff", "format", "--check", "."),
    program("directions of imports", "lint-imports"),
    program("compose schema", "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE),
    compose_config,
    compose_variables,
    locks_name_no_place,
]


def main() -> int:
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(lambda check: check(), CHECKS))
    for result in results:
        print(f"{result.verdict:8} {result.name} ({result.seconds:.1f} s)")
        if result.verdict != "passed":
            print("\n".join(f"    {line}" for line in result.output.rstrip().splitlines()))
    counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
