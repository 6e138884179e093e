"""Row 7: every line of the system-call filter, each taken away once."""

from __future__ import annotations

import json

import pytest

from tests.attacks import calls, removal
from tests.attacks.calls import ANSWERS, NUMBERS
from tests.attacks.probes import CALL, CLONE, CLONE3, INT80, inside, outside, refused_too, root
from worker.adapters.sandbox import seccomp

pytestmark = pytest.mark.skipif(not calls.X86, reason="numbers of x86_64")
NEWUSER = 0x10000000


@pytest.mark.parametrize("name", NUMBERS)
def test_a_denied_call(box, session, row, monkeypatch, name):
    """With its line permitted the kernel answers, and every other line still does. Where that answer is EPERM, too,
    a missing capability is the second defence; then the control is who has it."""
    assert json.loads(inside(session, ANSWERS, calls.wanted(frozenset({name})))) == {name: "EPERM"}
    removal.permit(box, monkeypatch, name)
    with box.session() as bare:
        answers = json.loads(inside(bare, ANSWERS, calls.wanted()))
    got = answers.pop(name)
    assert answers == dict.fromkeys(answers, "EPERM")
    assert got != "EPERM" or name in calls.ASK_FIRST
    row(f"7 {name}", "EPERM", control=f"{got} without its line" if got != "EPERM" else calls.with_capabilities(name))
    second = "EPERM: a missing capability is the second defence"
    row(f"7 {name}", got if got != "EPERM" else second, without=f"the filter's line {name}")


@pytest.mark.parametrize("name", sorted(calls.ASK_FIRST))
def test_the_filter_answers_who_has_the_capability(row, name):
    """Beside any sandbox: with the filter a program that holds the capability is refused, without it it is not."""
    assert calls.in_namespaces(filtered=True)[name] == "EPERM"
    if root() and name in calls.OF_THE_HOST:
        assert calls.of_the_host(filtered=True)[name] == "EPERM"
    control = calls.with_capabilities(name)
    if "EPERM" in control:  # nobody's but the host's root, which this user is not
        assert not root()
        assert name in calls.OF_THE_HOST | calls.COUNTED
    row(f"7 {name}, capability held", "EPERM", control=control, level="filter alone")


@pytest.mark.parametrize("removed", [("filter",), ("option",), ("filter", "option")], ids="+".join)
@pytest.mark.parametrize("call", ["unshare", "clone", "clone3"])
def test_each_of_two_defences_keeps_user_namespaces_closed(box, row, monkeypatch, call, removed):
    if "filter" in removed:
        removal.line(box, monkeypatch, call)
    if "option" in removed:
        removal.hardening(monkeypatch, "userns")
    with box.session() as session:
        got = new_user_namespace(session, call)
    kept = {"ENOSYS"} if call == "clone3" and "filter" not in removed else {"EPERM", "ENOSPC"}
    assert got == "open" if len(removed) == 2 else got in kept
    names = {"filter": f"the filter's line {call}", "option": "--disable-userns"}
    row(f"7 {call}(NEWUSER)", got, without=" + ".join(names[name] for name in removed))


def new_user_namespace(session, call: str) -> str:
    program, number = {
        "unshare": (CALL, NUMBERS["unshare"]),
        "clone": (CLONE, seccomp.ABIS["x86_64"].clone),
        "clone3": (CLONE3, 435),
    }[call]
    arguments = (program, number, NEWUSER)
    return outside(*arguments) if session is None else inside(session, *arguments)


@pytest.mark.parametrize("call", ["unshare", "clone", "clone3"])
def test_no_call_makes_a_user_namespace(session, row, call):
    got = new_user_namespace(session, call)
    assert got == ("ENOSYS" if call == "clone3" else "EPERM")
    row(f"7 {call}(NEWUSER)", got, control=refused_too(new_user_namespace(None, call)))


def test_clone_makes_no_other_namespaces(session, row):
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x20000000, 0x40000000):
        assert inside(session, CLONE, 56, flag) == "EPERM"
    control = outside(CLONE, 56, NEWUSER | 0x40000000)
    assert control == "open"
    row("7 clone(NEW*)", "EPERM", control=control)


def test_another_architectures_calls(box, session, row, monkeypatch):
    got = inside(session, INT80)
    assert got == "ENOSYS"
    control = outside(INT80) or "refused too: this kernel has none"
    row("7 int 0x80", got, control=control)
    removal.line(box, monkeypatch, "architecture")
    with box.session() as bare:
        got = inside(bare, INT80) if control == "open" else "not tried: this kernel has none"
    assert got == control or control != "open"
    row("7 int 0x80", got, without="the filter's line of the architecture")


def test_x32_calls(box, session, row, monkeypatch):
    """Few kernels have them; where they are missing, the filter's line answers as the kernel does."""
    number = 0x40000000 | 39
    assert inside(session, CALL, number) == "ENOSYS"
    control = outside(CALL, number)
    row("7 x32 calls", "ENOSYS", control=refused_too(control))
    removal.line(box, monkeypatch, "x32")
    with box.session() as bare:
        got = inside(bare, CALL, number)
    assert got == control
    row("7 x32 calls", got if got == "open" else f"{got}: this kernel has none", without="the filter's line of x32")
