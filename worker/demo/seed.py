"""The demo's repository and issue: a small library with a real bug and a test that fails because of it."""

from __future__ import annotations

from importlib.resources import files

REPOSITORY = "acme/textkit"


def project_files() -> dict[str, bytes]:
    """Path to content, everything under `project/`."""
    root = files("worker.demo") / "project"
    found: dict[str, bytes] = {}
    pending = [("", root)]
    while pending:
        prefix, folder = pending.pop()
        for entry in folder.iterdir():
            if entry.name == "__pycache__":
                continue
            if entry.is_dir():
                pending.append((f"{prefix}{entry.name}/", entry))
            else:
                found[prefix + entry.name] = entry.read_bytes()
    return dict(sorted(found.items()))


def issue() -> tuple[str, str]:
    """Title and body."""
    text = (files("worker.demo") / "issue.md").read_text(encoding="utf-8")
    title, _, body = text.partition("\n")
    return title.strip(), body.strip()
