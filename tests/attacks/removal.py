"""Take one defence away, for a test: an option of bubblewrap, a call of the filter, a limit, the uid drop."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sandboxes import Place
from worker.adapters.sandbox import cgroup, command, persistent, process, seccomp, stage

Edit = Callable[[list[str]], list[str]]


def hardening(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Without these groups of `command.hardening`."""
    left = {name: words for name, words in command.hardening().items() if name not in names}
    monkeypatch.setattr(command, "hardening", lambda: left)


def options(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    """With the bubblewrap command line changed, wherever the sandbox's modules hold the function that makes it."""
    original = command.options

    def changed(*args, **more):
        return edit(original(*args, **more))

    for name, module in list(sys.modules.items()):
        if name.startswith("worker.adapters.sandbox") and getattr(module, "options", None) is original:
            monkeypatch.setattr(module, "options", changed)


def drop(*words: str) -> Edit:
    """Removes each place where `words` follow one another; it must be there."""

    def edit(line: list[str]) -> list[str]:
        at = [i for i in range(len(line)) if tuple(line[i : i + len(words)]) == words]
        assert at, f"{words} is no part of the bubblewrap command"
        for i in reversed(at):
            line = [*line[:i], *line[i + len(words) :]]
        return line

    return edit


def file_system(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without the limits of one of the file systems in memory."""
    original = stage.Quota.file_systems.fget

    def changed(quota: stage.Quota) -> dict[str, str]:
        found = original(quota)
        return {**found, name: found[name].split(",")[0]}

    monkeypatch.setattr(stage.Quota, "file_systems", property(changed))


def writable(prefix: str) -> Edit:
    """Read-only mounts below `prefix` inside, made writable."""

    def edit(line: list[str]) -> list[str]:
        found = [i for i in range(len(line) - 2) if line[i] == "--ro-bind" and line[i + 2].startswith(prefix)]
        assert found
        return ["--bind" if i in found else word for i, word in enumerate(line)]

    return edit


def permit(box: Place, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(box.sandbox, "_filter", seccomp.program(permit=frozenset(names)))


def line(box: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The filter without one of its lines: a denied call's, or `clone`, `clone3`, `ioctl`, `architecture`, `x32`."""
    if name in seccomp.DENIED:
        return permit(box, monkeypatch, name)
    if name == "clone":
        monkeypatch.setattr(seccomp, "NEW_NAMESPACES", 0)
    elif name == "clone3":
        monkeypatch.setattr(seccomp, "CLONE3", 0x3FFFFFFF)  # no call has that number
    elif name == "ioctl":
        monkeypatch.setattr(seccomp, "DENIED_IOCTLS", ())
    elif name == "x32":
        abis = {key: replace(abi, x32=False) for key, abi in seccomp.ABIS.items()}
        monkeypatch.setattr(seccomp, "ABIS", abis)
    else:
        assert name == "architecture"
        program = bytearray(seccomp.program())
        assert program[8:10] == struct.pack("<H", seccomp._JUMP_EQ)
        program[11] = 0  # how far it jumps when the architecture is another
        return monkeypatch.setattr(box.sandbox, "_filter", bytes(program))
    return permit(box, monkeypatch)


def no_filter(box: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that allows everything."""
    allow = seccomp._Assembler()
    allow.add(seccomp._RETURN, seccomp._ALLOW)
    monkeypatch.setattr(box.sandbox, "_filter", allow.bytes())


def uid_drop(box: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.sandbox, "_drop", False)


def ulimits(monkeypatch: pytest.MonkeyPatch, position: int, value: int) -> None:
    """One of the prelude's limits (file size, data, processes, descriptors) raised out of the way."""
    original = command._ulimits

    def changed(limits) -> list[str]:
        found = original(limits)
        found[position] = str(value)
        return found

    monkeypatch.setattr(command, "_ulimits", changed)


def group_write(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Control groups without one of the writes to their files."""
    original = cgroup.write

    def changed(path: Path, value: str) -> None:
        if path.name != name:
            original(path, value)

    monkeypatch.setattr(cgroup, "write", changed)


def empty_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """bubblewrap is started with a variable of the service's."""
    _started(monkeypatch, lambda more: {**more, "env": {**(more.get("env") or {}), name: value}})


def closed_descriptors(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    """bubblewrap is started with a descriptor of the service's."""
    _started(monkeypatch, lambda more: {**more, "pass_fds": (*more.get("pass_fds", ()), fd)})


def _started(monkeypatch: pytest.MonkeyPatch, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    class Leaky(subprocess.Popen):
        def __init__(self, argv, **more):
            super().__init__(argv, **edit(more))

    real = process.subprocess

    class Module:
        def __getattr__(self, wanted: str):
            return Leaky if wanted == "Popen" else getattr(real, wanted)

    for module in (process, persistent):
        monkeypatch.setattr(module, "subprocess", Module())
