"""What a request costs, what of its answers is kept, and how this process alone keeps to the limits."""

from __future__ import annotations

import json
import time

import pytest

from worker.adapters.forge.gate import Gate, GateShut, Price, Rates
from worker.adapters.forge.passage import GatedAdapter, Kept, Passages, price

READ, WRITE, DELETE = Price(points=1, content=False), Price(points=5, content=True), Price(points=5, content=False)
QUERY, MUTATION = json.dumps({"query": "query { viewer { login } }"}), json.dumps({"query": "mutation { a }"}).encode()


@pytest.mark.parametrize(
    ("method", "path", "body", "costs"),
    [
        ("GET", "/repos/a/b", None, READ),
        ("HEAD", "/repos/a/b", None, READ),
        ("POST", "/repos/a/b/issues/1/comments", b"{}", WRITE),
        ("PATCH", "/repos/a/b/issues/comments/1", b"{}", WRITE),
        ("PUT", "/repos/a/b/contents/x", b"{}", WRITE),
        ("DELETE", "/repos/a/b/issues/1/labels/x", None, DELETE),
        ("POST", "/app/installations/1/access_tokens", b"{}", DELETE),
        ("POST", "/app-manifests/abc/conversions", None, DELETE),
        ("POST", "/graphql", QUERY, READ),
        ("POST", "/api/graphql", MUTATION, WRITE),
        ("POST", "/graphql", b"\xff no json", WRITE),
        ("POST", "/graphql", b"[]", WRITE),
        ("POST", "/graphql", None, READ),
    ],
)
def test_what_a_request_costs(method: str, path: str, body: bytes | str | None, costs: Price) -> None:
    assert price(method, path, body) == costs


def test_what_is_kept_is_bounded_and_the_least_used_goes_first() -> None:
    kept = Kept(most=10, largest=5)
    kept.set(("a", "1"), b"12345")
    kept.set(("a", "2"), b"12345")
    assert kept.get(("a", "1")) == b"12345"
    kept.set(("b", "1"), b"123")
    assert kept.get(("a", "2")) is None
    assert (kept.get(("a", "1")), kept.get(("b", "1")), kept.size) == (b"12345", b"123", 8)
    kept.set(("b", "1"), b"123456")  # too large for one: what was there before is no longer true either
    assert (kept.get(("b", "1")), kept.size) == (None, 5)
    kept.delete(("a", "1"))
    kept.delete(("a", "1"))
    assert kept.size == 0


def test_accounts_do_not_see_what_others_keep() -> None:
    """A server may leave out `Vary: Authorization`."""
    kept = Kept()
    ann, ben = (GatedAdapter(Passages(kept=kept).of(account)).cache for account in ("ann", "ben"))
    ann.set("https://github.example/a", b"ann's")
    assert ben.get("https://github.example/a") is None
    ben.delete("https://github.example/a")
    assert ann.get("https://github.example/a") == b"ann's"


def test_points_and_content_run_out_apart() -> None:
    gate = Gate(Rates(content_per_minute=2, content_per_hour=0, points_per_minute=16), max_wait=0)
    gate.enter("a", WRITE)
    gate.enter("a", WRITE)
    with pytest.raises(GateShut, match="2 content per minute") as shut:
        gate.enter("a", WRITE)
    assert 50 < shut.value.retry_after <= 60
    for _ in range(6):  # of 16 points 10 are spent
        gate.enter("a", READ)
    with pytest.raises(GateShut, match="16 points per minute"):
        gate.enter("a", READ)
    gate.enter("b", WRITE)  # another account has its own


def test_fewer_points_than_a_write_costs_let_one_through() -> None:
    gate = Gate(Rates(content_per_minute=0, content_per_hour=0, points_per_minute=3), max_wait=0)
    gate.enter("a", WRITE)
    with pytest.raises(GateShut, match="3 points per minute"):
        gate.enter("a", READ)


def test_an_hour_is_a_limit_of_its_own() -> None:
    gate = Gate(Rates(content_per_minute=0, content_per_hour=1, points_per_minute=0), max_wait=0)
    gate.enter("a", WRITE)
    with pytest.raises(GateShut, match="1 content per hour") as shut:
        gate.enter("a", WRITE)
    assert shut.value.retry_after > 3500
    for _ in range(50):
        gate.enter("a", DELETE)


def test_what_is_refused_is_not_counted() -> None:
    gate = Gate(Rates(content_per_minute=1, content_per_hour=2, points_per_minute=0), max_wait=0)
    gate.enter("a", WRITE)
    for _ in range(5):
        with pytest.raises(GateShut, match="content per minute"):  # not per hour: that one still has room
            gate.enter("a", WRITE)


def test_zero_is_no_limit() -> None:
    gate = Gate(Rates(content_per_minute=0, content_per_hour=0, points_per_minute=0), max_wait=0)
    for _ in range(2000):
        gate.enter("a", WRITE)


def test_a_short_wait_is_waited_and_told() -> None:
    waits: list[tuple[str, float]] = []
    gate = Gate(max_wait=5, waited=lambda account, seconds: waits.append((account, seconds)))
    gate.shut("a", 0.3)
    gate.shut("a", 0.1)  # never sooner
    started = time.monotonic()
    gate.enter("a", READ)
    assert time.monotonic() - started >= 0.29
    ((account, seconds),) = waits
    assert account == "a"
    assert seconds >= 0.29


@pytest.mark.parametrize(
    ("status", "headers", "said", "core", "graphql"),
    [
        (200, {"x-ratelimit-remaining": "17"}, "", 0, 0),
        (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "+90"}, "", 91, 0),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "+90"}, "API rate limit exceeded", 91, 0),
        (403, {"retry-after": "30", "x-ratelimit-remaining": "4000"}, "", 30, 30),
        (403, {"retry-after": "30", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "+90"}, "", 30, 30),
        (403, {}, "You have exceeded a secondary rate limit.", 60, 60),
        (403, {}, "Resource not accessible by integration", 0, 0),
        (429, {}, "", 60, 60),
        (429, {"retry-after": "soon"}, "", 60, 60),
        (503, {"retry-after": "20"}, "", 20, 20),
        (502, {}, "", 0, 0),
        (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "never"}, "", 0, 0),
    ],
)
def test_what_github_says_shuts_the_gate(
    status: int, headers: dict[str, str], said: str, core: float, graphql: float
) -> None:
    passages = Passages(gate=Gate(max_wait=0))
    stamped = {k: str(int(time.time()) + 90) if v == "+90" else v for k, v in headers.items()}
    passage = passages.of("a")
    passage.answered("GET", "/repos/a/b", status, stamped, said)
    for path, wait in (("/repos/a/b", core), ("/graphql", graphql)):
        if not wait:
            passage.enter("GET", path)
            continue
        with pytest.raises(GateShut, match="asked a to wait") as shut:
            passage.enter("GET", path)
        assert shut.value.retry_after == pytest.approx(wait, abs=2)
    passages.of("b").enter("GET", "/repos/a/b")
