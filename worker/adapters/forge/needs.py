"""What the service needs of its GitHub App, and why. The manifest, the checks and docs/github.md follow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.types import Frozen

LEVELS = ("none", "read", "write", "admin")


class Permission(Frozen):
    """`level` of the App's permission `name`, as GitHub's API spells both."""

    name: str
    level: str
    why: str
    without: str = ""  #: what is missing without it; empty: nothing works

    def granted(self, permissions: Mapping[str, str]) -> bool:
        has = permissions.get(self.name, "none")
        return has in LEVELS and LEVELS.index(has) >= LEVELS.index(self.level)


class Event(Frozen):
    """A webhook event that the App is subscribed to."""

    name: str
    why: str
    without: str = ""  #: what is missing without it; empty: nothing starts


PERMISSIONS = (
    Permission(
        name="metadata", level="read", why="GitHub gives it to every App; who may write to a repository is read"
    ),
    Permission(name="contents", level="write", why="clone the repository, push the branch of a change"),
    Permission(
        name="issues", level="write", why="read the issue, write the status comment, react, set and remove labels"
    ),
    Permission(name="pull_requests", level="write", why="open and update pull requests, answer reviews"),
    Permission(
        name="checks",
        level="write",
        why="show the evidence as a check run on the change's commit, read checks that fail there",
        without="the evidence stands in the pull request alone, and failing checks are left to people",
    ),
)
EVENTS = (
    Event(name="issues", why="a label asks for a fix; a closed, locked or moved issue ends one"),
    Event(name="issue_comment", why="commands in comments", without="commands in comments are not heard"),
    Event(
        name="pull_request",
        why="what becomes of a pull request; a place below the cap is free",
        without="closed pull requests are noticed late",
    ),
    Event(name="pull_request_review", why="reviews are answered", without="reviews are not answered"),
    Event(
        name="check_suite",
        why="checks that fail on the service's own commits are seen to",
        without="failing checks are left to people",
    ),
    Event(
        name="repository",
        why="a repository that is archived, deleted, renamed or transferred ends its runs",
        without="its runs go on until GitHub refuses them",
    ),
)


def lacking(permissions: Mapping[str, str]) -> list[Permission]:
    return [needed for needed in PERMISSIONS if not needed.granted(permissions)]


def unheard(events: Iterable[str]) -> list[Event]:
    subscribed = set(events)
    return [needed for needed in EVENTS if needed.name not in subscribed]
