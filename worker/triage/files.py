"""Issues from a file of a person's own: JSON as GitHub's API or `gh issue list --json` writes it, or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.triage.backlog import LARGEST_BODY, BacklogIssue
from worker.errors import SettingsError

LARGEST_FILE = 512 << 20  # bytes
MOST_ISSUES = 20_000


def read_issues(path: Path) -> list[BacklogIssue]:
    """In the order of the file; closed ones and pull requests are left out. SettingsError says what is wrong, and in
    which entry."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SettingsError(f"{path} is larger than {LARGEST_FILE >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read: {error}") from error
    found: dict[int, BacklogIssue] = {}
    for place, entry in enumerate(_entries(path, text), start=1):
        if "pull_request" in entry or str(entry.get("state", "open")).lower() != "open":
            continue
        issue = _issue(f"{path}, entry {place}", entry)
        if found.setdefault(issue.number, issue) != issue:
            raise SettingsError(f"{path}, entry {place}: there is another issue {issue.number} before it")
        if len(found) > MOST_ISSUES:
            raise SettingsError(f"{path} holds more than {MOST_ISSUES:,} issues: divide it")
    return list(found.values())


def _entries(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() == ".csv":
        yield from _rows(path, text)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is no JSON ({error}); a CSV file has to be named so") from error
    if not isinstance(value, list):
        raise SettingsError(f"{path} is no JSON list of issues")
    for place, entry in enumerate(value, start=1):
        if not isinstance(entry, Mapping):
            raise SettingsError(f"{path}, entry {place}: no JSON object")
        yield entry


def _rows(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(4 * LARGEST_BODY)
    reader = csv.DictReader(text.splitlines(keepends=True), restkey="")
    missing = {"number", "title"} - set(reader.fieldnames or ())
    if missing:
        raise SettingsError(f"{path}: its first line names no column {' and no column '.join(sorted(missing))}")
    try:
        for row in reader:
            entry = {name: value for name, value in row.items() if name and value not in (None, "")}
            yield {**entry, "labels": [one.strip() for one in str(entry.get("labels", "")).split(",") if one.strip()]}
    except csv.Error as error:
        raise SettingsError(f"{path}, line {reader.line_num}: {error}") from error


def _issue(where: str, entry: Mapping[str, Any]) -> BacklogIssue:
    comments = entry.get("comments", 0)
    labels = entry.get("labels") or []
    values = {
        "number": entry.get("number"),
        "title": entry.get("title") or "",
        "body": entry.get("body") or "",
        "labels": tuple(_named(label, "name") for label in labels) if isinstance(labels, list) else labels,
        "author": _named(entry.get("author") or entry.get("user"), "login"),
        "created_at": entry.get("created_at") or entry.get("createdAt"),
        "updated_at": entry.get("updated_at") or entry.get("updatedAt"),
        "comments": len(comments) if isinstance(comments, list) else comments,
    }
    try:
        return BacklogIssue.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise SettingsError(f"{where}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error


def _named(value: Any, field: str) -> Any:
    return value.get(field) if isinstance(value, Mapping) else value
