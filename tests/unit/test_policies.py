"""Whether a repository turns machine-made changes away. The sentences are our own, in the manner of real guides."""

from __future__ import annotations

import time

import pytest

from worker.stages.config import RepositoryConfig
from worker.stages.policies import GUIDES, forbidden


def read_as(text: str, *, at: str = "CONTRIBUTING.md", settings: RepositoryConfig | None = None) -> str | None:
    return forbidden(settings or RepositoryConfig(), {at: text.encode()}.get)


@pytest.mark.parametrize(
    "text",
    [
        "We do not accept AI-generated contributions.",
        "# Rules\n\n- Be kind.\n- No AI generated pull requests.\n- Tests!",
        "Pull requests written by an LLM will be closed.",
        "Code that was produced by ChatGPT, Copilot or similar tools is not allowed\nin this project.",
        "AI: contributions made with generative AI are prohibited.",
        "Please don't submit machine-generated patches.",
        "Contributions created by large language models are not welcome here.",
        "We reject LLM-written PRs.",
    ],
)
@pytest.mark.parametrize("at", ["CONTRIBUTING.md", "AGENTS.md"])
def test_what_turns_them_away(text: str, at: str) -> None:
    said = read_as(text, at=at)
    assert said is not None
    assert f"`{at}`" in said
    assert "ai_contributions: allowed" in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Contributions are welcome.",
        "AI-assisted contributions are welcome. Do not open pull requests without tests.",
        "Undisclosed AI contributions are not accepted.",
        "We do not accept AI-generated code unless a human reviewed it.",
        "Do not submit LLM output without review.",
        "Our AI module lives in `ai/`; changes there need two reviews.",
        "The air is thin, and no said patches are main code.",
        "We use Copilot for code.",
        "<!-- We do not accept AI-generated contributions. -->\nWelcome!",
        "No AI. " + "x" * 500 + " contributions",
        "Agents: do not commit generated code to `dist/`.",
    ],
)
def test_what_does_not(text: str) -> None:
    assert read_as(text) is None


def test_the_owners_word_in_the_settings_counts_first() -> None:
    text = "We do not accept AI-generated contributions."
    assert read_as(text, settings=RepositoryConfig(ai_contributions="allowed")) is None
    said = read_as("Welcome.", settings=RepositoryConfig(ai_contributions="forbidden"))
    assert said == "this repository's settings forbid it (`ai_contributions` in `.devstral-fix.yml`)"


def test_every_guide_is_read_and_none_for_long() -> None:
    for path in GUIDES:
        assert read_as("No AI pull requests.", at=path) is not None
    began = time.monotonic()
    for hostile in ("AI contributions do not ", "-", "<!--", "AI code is not a ", " a"):
        read_as(hostile * (131_072 // len(hostile)))
    assert time.monotonic() - began < 2
