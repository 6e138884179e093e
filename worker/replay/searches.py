"""Searches of other harnesses, done again inside the sandbox, in the words that each of them answers in."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from agent.recording import Moment
from worker.replay.done import Done
from worker.replay.files import Files, NoSuchFile

_MANY = 100  # SWE-agent names no more files, or lines, than that
# OpenHands' own rules: names that begin with a dot are left out of a directory's search, text is stripped.
_WALK = """import json, os, sys
what, term, where = sys.argv[1:]
found = []
if what == "search_file":
    with open(where, errors="ignore") as file:
        found = [f"Line {n}: {line.strip()}" for n, line in enumerate(file, 1) if term in line]
else:
    for root, _, names in os.walk(where):
        for name in names:
            path = os.path.join(root, name)
            if what == "find_file":
                found += [path] if term in name else []
            elif not name.startswith("."):
                with open(path, errors="ignore") as file:
                    lines = enumerate(file, 1)
                    found += [f"{path} (Line {n}): {line.strip()}" for n, line in lines if term in line]
print(json.dumps(found))
"""


def search_dir(files: Files, moment: Moment, given: dict[str, Any]) -> Done:
    """SWE-agent's: how often each file has it."""
    term, folder = str(given.get("search_term")), files.path(str(given.get("dir") or "."), moment.cwd)
    where = f"{files.root}/{folder}" if folder != "." else files.root
    script = 'find "$(realpath "$2")" -type f ! -path "*/.*" -exec grep -nIH -- "$1" {} +'
    done = files.session.exec(["bash", "-c", script, "bash", term, folder], timeout=60.0, max_output=4 << 20)
    counts = Counter(files.theirs(line.split(":", 1)[0]) for line in done.stdout.text.splitlines())
    if not counts:
        return Done(text=f'No matches found for "{term}" in {where}')
    if len(counts) > _MANY:
        text = f'More than {len(counts)} files matched for "{term}" in {where}. Please narrow your search.'
        return Done(text=text)
    lines = [f"{path} ({count} matches)" for path, count in sorted(counts.items())]
    head, tail = f'Found {counts.total()} matches for "{term}" in {where}:', f'End of matches for "{term}" in {where}'
    return Done(text="\n".join([head, *lines, tail]))


def search_file(files: Files, given: dict[str, Any], path: str) -> Done:
    """SWE-agent's: the lines of one file."""
    term, where = str(given.get("search_term")), f"{files.root}/{path}"
    lines = files.read(path).split("\n")
    done = files.session.exec(["grep", "-n", "--", term, path], timeout=60.0, max_output=4 << 20)
    numbers = [int(line.split(":", 1)[0]) for line in done.stdout.text.splitlines() if line.split(":", 1)[0].isdigit()]
    if not numbers:
        return Done(text=f'No matches found for "{term}" in {where}', shows=path)
    if len(numbers) > _MANY:
        text = f'More than {len(numbers)} lines matched for "{term}" in {where}. Please narrow your search.'
        return Done(text=text, shows=path)
    shown = [f"Line {number}:{lines[number - 1]}" for number in numbers]
    head, tail = f'Found {len(numbers)} matches for "{term}" in {where}:', f'End of matches for "{term}" in {where}'
    return Done(text="\n".join([head, *shown, tail]), shows=path)


def walked(files: Files, moment: Moment, what: str, term: str, where: str) -> Done:
    """OpenHands' search_dir, search_file and find_file."""
    place = files.path(where, moment.cwd)
    if what == "search_file":
        files.read(place)
    done = files.session.exec(
        ["python3", "-I", "-c", _WALK, what, term, files.ours(where) if where.startswith("/") else place],
        timeout=60.0,
        max_output=4 << 20,
    )
    if done.returncode != 0:
        raise NoSuchFile(where)
    found = [files.theirs(line) for line in json.loads(done.stdout.text)]
    shows = place if what == "search_file" else None
    if not found:
        return Done(text=f'[No matches found for "{term}" in {where}]', shows=shows)
    head, tail = f'[Found {len(found)} matches for "{term}" in {where}]', f'[End of matches for "{term}" in {where}]'
    return Done(text="\n".join([head, *found, tail]), shows=shows)
