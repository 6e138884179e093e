"""Commands in comments: what gives one, what only shows one."""

from __future__ import annotations

import time

import pytest

from worker.runs.commands import HELP, Command, Verb, command

NAME = "devstral-fixer"


@pytest.mark.parametrize(
    ("body", "verb", "text"),
    [
        ("/devstral fix", Verb.FIX, ""),
        ("/DEVSTRAL Fix", Verb.FIX, ""),
        ("  /devstral stop  ", Verb.STOP, ""),
        ("Thanks!\r\n\r\n/devstral retry\r\n", Verb.RETRY, ""),
        ("/devstral fix: rename it\nand keep the `x`", Verb.FIX, "rename it\nand keep the `x`"),
        (
            "/devstral fix like this\n```py\nx = 1\n```\n> not so",
            Verb.FIX,
            "like this\n```py\nx = 1\n```\n> not so",
        ),
        ("/devstral please fix it", Verb.FIX, "it"),
        ("/devstral status why?\n/devstral stop", Verb.STATUS, "why?\n/devstral stop"),
        ("/devstral", Verb.UNKNOWN, ""),
        ("/devstral fxi", Verb.UNKNOWN, "fxi"),
        ("/devstral fix-all", Verb.UNKNOWN, "fix-all"),
        ("/devstral fixed?", Verb.UNKNOWN, "fixed?"),
        ("/devstral статус", Verb.UNKNOWN, "статус"),
        (f"@{NAME} status", Verb.STATUS, ""),
        (f"@{NAME}[bot], please retry", Verb.RETRY, ""),
        (f"@{NAME.upper()} the name is wrong", Verb.UNKNOWN, "the name is wrong"),
        ("<!-- a\ntemplate -->/devstral fix", Verb.FIX, ""),
    ],
)
def test_a_command(body: str, verb: Verb, text: str) -> None:
    assert command(body, mention=NAME) == Command(verb=verb, text=text)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "/devstralfix",
        "/devstral-fix fix",
        "/devstral/fix",
        "say /devstral fix to start it",
        "> /devstral fix",
        "  > /devstral fix",
        "    /devstral fix",
        "\t/devstral fix",
        "```\n/devstral fix\n```",
        "~~~sh\n/devstral fix\n```\n/devstral fix\n~~~",
        "````\n```\n/devstral fix\n````",
        "```\n/devstral fix",
        "<!-- /devstral fix -->",
        "<!--\n/devstral fix\n",
        "`/devstral fix`",
        f"cc @{NAME}",
        f"@{NAME}s fix",
        f"@{NAME}-2 fix",
        f"mail@{NAME} fix",
    ],
)
def test_no_command(body: str) -> None:
    assert command(body, mention=NAME) is None


def test_without_a_name_nobody_is_mentioned() -> None:
    assert command(f"@{NAME} fix") is None


def test_a_name_is_no_pattern() -> None:
    assert command("@axb fix", mention="a.b") is None


def test_every_verb_but_the_unknown_one_is_told_to_people() -> None:
    assert set(HELP) == set(Verb) - {Verb.UNKNOWN}


def test_what_is_said_is_bounded_and_quickly_read() -> None:
    began = time.monotonic()
    said = command("/devstral fix " + "x" * 100_000)
    assert said is not None
    assert len(said.text) == 8_000
    for hostile in (
        "<!--" * 30_000,
        "`" * 100_000,
        "/devstral " + " ," * 50_000,
        "/devstral\n" * 20_000,
        ">" * 100_000,
    ):
        command(hostile, mention=NAME)
    assert time.monotonic() - began < 2
