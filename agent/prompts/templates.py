"""Template files of this folder: their parts, each under a line `%% name`, and how they are filled."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from string import Template


def fill(file: str, section: str, **values: str) -> str:
    """The section with its values. substitute() does not look into what it filled in: a `$` in an issue stays one."""
    return Template(sections(file)[section]).substitute(values)


@cache
def source(name: str) -> str:
    return files("agent.prompts").joinpath(name).read_text(encoding="utf-8")


@cache
def sections(name: str) -> dict[str, str]:
    parts = {}
    for part in ("\n" + source(name)).split("\n%% ")[1:]:
        heading, _, text = part.partition("\n")
        parts[heading.strip()] = text.strip()
    return parts
