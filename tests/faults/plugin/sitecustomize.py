"""Loaded by a worker under test through its PYTHONPATH: takes one defence away, shifts its clock, shrinks its disk.

FAULTS_PLUGIN names what, separated by commas. Nothing in the product knows of it.
"""

from __future__ import annotations

import os
import re


def clock(seconds: float) -> None:
    """This process alone lives `seconds` later than the others. Only wall clocks: time.monotonic stays."""
    import datetime as dt
    import time

    now, now_ns, real, monotonic = time.time, time.time_ns, dt.datetime, int(seconds * 1e9)
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + monotonic

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, real)

    class Shifted(real, metaclass=Kind):
        @classmethod
        def now(cls, tz=None):
            return real.now(tz) + dt.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls):
            return real.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=seconds)

    dt.datetime = Shifted


def rewritten(change) -> None:
    """Every SQL statement of this process goes through `change` first."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def before(connection, cursor, statement, parameters, context, executemany):
        return change(statement), parameters


def without_fencing() -> None:
    """No write asks any more whether the lease is still held: whatever token a WHERE compares, it is content. Nor does
    a holder notice by itself that its lease is gone, which would keep it from trying."""
    from worker.holding import Holding

    Holding.lose = lambda self, why: None
    compared = re.compile(r"runs\.lease_token = (?:%\(\w+\)s(?:::\w+)?|held\.token)")

    def change(statement: str) -> str:
        head, where, tail = statement.partition("WHERE")
        return head + where + compared.sub(lambda found: f"({found.group()} OR true)", tail)

    rewritten(change)


def without_unique_key() -> None:
    """A delivery is stored however often it comes (the constraints are dropped in the database beside this)."""
    clause = re.compile(r"(INSERT INTO deliveries .*?) ON CONFLICT \(key\) DO NOTHING", re.DOTALL)
    rewritten(lambda statement: clause.sub(r"\1", statement))


def without_marker() -> None:
    """Nothing of ours is ever found on GitHub."""
    from worker.adapters.forge.github import GitHubForge

    for name in [name for name in vars(GitHubForge) if name.startswith("find_")]:
        setattr(GitHubForge, name, lambda self, *args, **named: None)


def small_disk() -> None:
    """A workspace of 16 MiB."""
    from agent.protocols import SandboxLimits

    SandboxLimits.model_fields["disk_bytes"].default = 16 << 20
    SandboxLimits.model_rebuild(force=True)


for word in filter(None, os.environ.get("FAULTS_PLUGIN", "").split(",")):
    name, _, value = word.partition("=")
    if name == "clock":
        clock(float(value))
    else:
        {
            "fencing": without_fencing,
            "unique-key": without_unique_key,
            "marker": without_marker,
            "small-disk": small_disk,
        }[name]()
