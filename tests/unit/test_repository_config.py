"""`.devstral-fix.yml`: what is accepted, and what is told when it is not."""

from __future__ import annotations

import pytest

from worker.stages.config import ConfigError, RepositoryConfig, parse
from worker.stages.instructions import instructions


def test_no_file_and_an_empty_file_mean_defaults():
    assert parse(None) == parse(b"") == parse(b"# nothing\n") == RepositoryConfig()


def test_values_are_read():
    config = parse(b"test: make check\ntest_timeout_seconds: 30\nallow_workflow_changes: true\n")
    assert (config.test, config.test_timeout_seconds, config.allow_workflow_changes) == ("make check", 30, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"tests: make", "tests: Extra inputs"),
        (b"test: [a, b]", "test: Input should be a valid string"),
        (b"test_timeout_seconds: 0", "test_timeout_seconds"),
        (b"test_timeout_seconds: 99999", "less than or equal to 7200"),
        (b"- a\n- b\n", "keys and values"),
        (b"test_report_format: xml", "test_report_format"),
        (b"test_report: /etc/passwd", "test_report"),
        (b"max_changed_files: 0", "max_changed_files"),
        (b"samples: 0", "samples"),
        (b"samples: 9", "samples"),
        (b"max_open_pull_requests: 0", "max_open_pull_requests"),
        (b"max_pull_requests_per_day: many", "max_pull_requests_per_day"),
        (b"test: 'open", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
    ],
)
def test_what_is_wrong_is_told(text, told):
    with pytest.raises(ConfigError, match=r"`\.devstral-fix\.yml`") as caught:
        parse(text)
    assert told in str(caught.value)


def test_the_first_instruction_file_counts():
    files = {"CLAUDE.md": b"second", "AGENTS.md": b"first \xff"}
    assert instructions(files.get, ()) == "first \N{REPLACEMENT CHARACTER}"
    assert instructions({}.get, ()) is None


def test_nested_instructions_stand_under_their_directory_once_each():
    files = {
        "AGENTS.md": b"root",
        "a/AGENTS.md": b"tabs",
        "a/CLAUDE.md": b"no",
        "b/c/CLAUDE.md": b"x" * 9000,
        "d.py": b"",
    }
    text = instructions(files.get, tuple(files))
    assert text is not None
    assert text.startswith(
        "root\n\nFor changes below a/ (a/AGENTS.md):\n\ntabs\n\nFor changes below b/c/ (b/c/CLAUDE.md)"
    )
    assert "no" not in text.split()
    assert len(text) < 6000
    assert "bytes left out" in text


def test_of_many_nested_instructions_most_are_only_named():
    files = {f"p{n:02d}/AGENTS.md": b"rule" for n in range(60)}
    text = instructions(files.get, tuple(files))
    assert text is not None
    assert text.count("rule") == 8
    assert "- p08/AGENTS.md\n" in text
    assert text.endswith("- and 12 more")


def test_what_a_change_may_hold():
    policy = parse(b"allow_binary_files: true\nprotected_paths: ['infra/*']\nmax_changed_files: 3\n").hygiene
    assert (policy.allow_binaries, policy.allow_workflows) == (True, False)
    assert (policy.max_files, policy.max_lines) == (3, 10_000)
    assert policy.protected == (".devstral-fix.yml", "infra/*")  # what loosens the rules is no part of a change
