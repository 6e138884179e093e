"""Replays in the real sandbox: what was done is done again, and what differs is classified."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.imports import load
from agent.loop import Agent
from agent.protocols import Isolation
from agent.recording import Act, Harness, Moment, Observed, Recording
from agent.tools.text import WORKSPACE
from agent.trajectory import JsonlJournal, header
from agent.types import Limits, Price, Sampling, Task
from tests.fakes import FakeChanges, FakeModel, call, say
from tests.sandboxes import Place, place
from worker.replay.differences import Kind, Known, compare
from worker.replay.run import Replay, Replayer, blob_id, summary

SHOP = """\
import sys


def total(prices):
    result = 0
    for price in prices:
        result = price
    return result
"""
FIXED = SHOP.replace("result = price", "result += price")


def shown(text: str, path: str = "/repo/shop.py") -> str:
    return f"[File: {path}]\n" + "".join(f"{n}:{line}\n" for n, line in enumerate(text.splitlines(), 1))


def recording(*steps: tuple[str, dict, str | Observed | None], patch: str | None = None, **more) -> Recording:
    def seen(result: str | Observed | None) -> Observed | None:
        return Observed(text=result) if isinstance(result, str) else result

    return Recording(
        **{"harness": Harness.SWE_AGENT, "version": "0.x", "task": "t", "root": "/repo"} | more,
        steps=tuple(
            Moment(index=index, act=Act(tool=tool, arguments=arguments), observed=seen(result))
            for index, (tool, arguments, result) in enumerate(steps)
        ),
        patch=patch,
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Place:
    return place(tmp_path_factory.mktemp("replay"), {"shop.py": SHOP, "moved.py": SHOP.removeprefix("import sys\n")})


def replayed(here: Place, found: Recording) -> Replay:
    return Replayer(sandbox=here.sandbox, repositories=here.repos).replay(found, here.git_dir, here.commit)


def diff(before: str, after: str, name: str = "shop.py") -> str:
    ids = [blob_id(text.encode())[:7] for text in (before, after)]
    line = before.splitlines().index("        result = price")
    old = before.splitlines()
    return (
        f"diff --git a/{name} b/{name}\nindex {ids[0]}..{ids[1]} 100644\n--- a/{name}\n+++ b/{name}\n"
        f"@@ -{line},3 +{line},3 @@\n {old[line - 1]}\n-{old[line]}\n+        result += price\n {old[line + 1]}\n"
    )


def test_edits_views_and_commands_are_done_again_and_the_patch_is_the_same(here: Place):
    broken = Observed(text="Your proposed edit has introduced new syntax error(s).", refused=True)
    done = replayed(here, recording(
        ("open", {"path": "shop.py"}, shown(SHOP)),
        ("edit", {"first": 7, "last": 7, "text": "        result += ("}, broken),
        ("edit", {"first": 7, "last": 7, "text": "        result += price"}, shown(FIXED)),
        ("bash", {"command": "cd /repo && python3 -c 'import shop; print(shop.total([1, 2]))'"}, "3\r\n"),
        ("find_file", {"file_name": "shop.py"}, 'Found 1 matches for "shop.py" in /repo:\n/repo/shop.py'),
        ("submit", {}, "patch"),
        patch=diff(SHOP, FIXED),
    ))  # fmt: skip
    assert [step.how for step in done.steps] == ["same"] * 5 + ["nothing to compare"]
    assert (done.ours, done.patch, done.stopped) == (0, "the same change", "")
    assert [(blob.base, blob.after) for blob in done.blobs] == [(True, True)]
    assert "+        result += price" in done.diff


def test_an_edit_by_line_number_moves_with_the_lines_that_were_shown(here: Place):
    """The recording's file had one line more: done blindly the edit would hit the `return`, and stay valid Python."""
    done = replayed(here, recording(
        ("open", {"path": "moved.py"}, shown(SHOP, "/repo/moved.py")),
        ("edit", {"first": 7, "last": 7, "text": "        result += price"}, shown(FIXED, "/repo/moved.py")),
        patch=diff(SHOP, FIXED, "moved.py"),
    ))  # fmt: skip
    assert "-1 lines away" in done.steps[1].note
    assert [(blob.base, blob.after) for blob in done.blobs] == [(False, False)]
    assert (done.ours, done.patch) == (0, "the same change")
    assert "-        result = price\n+        result += price\n" in done.diff


def test_an_edit_whose_lines_are_not_there_stops_the_replay(here: Place):
    other = "a = 1\nb = 2\nc = 3\n"
    done = replayed(here, recording(
        ("open", {"path": "shop.py"}, shown(other)),
        ("edit", {"first": 2, "last": 2, "text": "b = 4"}, shown(other)),
        ("bash", {"command": "echo unreached"}, "unreached"),
        patch=diff(SHOP, FIXED),
    ))  # fmt: skip
    assert "the lines that the recording showed there are not in this file" in done.stopped
    assert len(done.steps) == 2
    assert done.diff == ""
    assert done.patch.startswith("not reached")


def test_what_went_otherwise_is_ours(here: Place):
    done = replayed(here, recording(
        ("bash", {"command": "echo one"}, "two"),
        ("bash", {"command": "exit 3"}, Observed(text="", exit_code=0)),
        ("edit", {"search": "result = price", "replace": "result = (("}, shown(SHOP)),
        ("scroll_sideways", {}, "…"),
        ("bash", {"command": "printf 'b\\na\\n'"}, "a\nb\n"),
        patch=diff(SHOP, FIXED),
        harness=Harness.SWE_AGENT,
    ))  # fmt: skip
    kinds = [[difference.kind for difference in step.differences] for step in done.steps]
    assert kinds[0] == kinds[1] == kinds[3] == [Kind.OURS]
    assert kinds[4] == [Kind.ORDER]
    assert (done.patch, done.patch_ours) == ("differs in shop.py", True)
    assert summary(done)["first_difference"] == 0


def test_searches_of_swe_agent_are_done_again(here: Place):
    def told(term: str, where: str, *lines: str, count: int) -> str:
        head, tail = f'Found {count} matches for "{term}" in {where}:', f'End of matches for "{term}" in {where}'
        return "\n".join([head, *lines, tail])

    shop = "/repo/shop.py"
    found = [f"Line {n}:{line}" for n, line in enumerate(SHOP.splitlines(), 1) if "price" in line]
    both = ["/repo/moved.py (3 matches)", "/repo/shop.py (3 matches)"]
    done = replayed(here, recording(
        ("search_dir", {"search_term": "price"}, told("price", "/repo", *both, count=6)),
        ("search_dir", {"search_term": "-x no", "dir": "."}, 'No matches found for "-x no" in /repo'),
        ("search_file", {"search_term": "price", "file": "shop.py"}, told("price", shop, *found, count=3)),
        ("open", {"path": "shop.py"}, shown(SHOP)),
        ("search_file", {"search_term": "nothing"}, 'No matches found for "nothing" in /repo/shop.py'),
        ("edit", {"first": 7, "last": 7, "text": "        result += price"}, shown(FIXED)),
        ("search_file", {"search_term": "+="}, told("+=", shop, "Line 9:…", count=1)),
        ("exit_cost", {}, ""),
    ))  # fmt: skip
    assert [step.how for step in done.steps[:6]] == ["same"] * 6
    assert [difference.kind for difference in done.steps[6].differences] == [Kind.OURS], "the file was changed before"


def test_its_later_editor_leaves_what_it_left(here: Place):
    numbers = "".join(f"{n:6}\t{line}\n" for n, line in enumerate(SHOP.splitlines(), 1))
    old, new = "result = price", "result += price"
    edit = {"command": "str_replace", "path": "/repo/shop.py", "old_str": old, "new_str": new}
    view = {"command": "view", "path": "/repo/shop.py"}
    refused = Observed(text="No replacement was performed, old_str `result = x` did not appear", refused=True)
    done = replayed(here, recording(
        ("str_replace_editor", view, f"Here's the result of running `cat -n`\n{numbers}"),
        ("str_replace_editor", edit | {"old_str": "result = x"}, refused),
        ("str_replace_editor", edit, "The file /repo/shop.py has been edited."),
        ("str_replace_editor", {"command": "create", "path": "/repo/new.py", "file_text": "x = 1\n"}, "File created"),
        ("bash", {"command": "cat new.py"}, "x = 1\n"),
        patch=diff(SHOP, FIXED),
    ))  # fmt: skip
    assert [step.how for step in done.steps] == ["same", "same", "nothing to compare", "nothing to compare", "same"]
    assert (done.ours, done.patch) == (0, "the same change")


def test_cells_of_openhands_are_done_again(here: Place):
    """Each a call of a helper, or code."""
    body = "".join(f"{n}|{line}\n" for n, line in enumerate(SHOP.splitlines(), 1))
    fixed = "".join(f"{n}|{line}\n" for n, line in enumerate(FIXED.splitlines(), 1))
    replace = "edit_file_by_replace(\n'/workspace/shop.py',\nto_replace='result %s price',\nnew_content='%s')"
    syntax = Observed(text="[Your proposed edit has introduced new syntax error(s). …]", refused=True)
    absent = Observed(text="[No exact match found in /workspace/shop.py for", refused=True)

    def cell(code: str, seen: str | Observed) -> tuple:
        return ("ipython", {"code": code}, seen)

    def told(term: str, where: str, line: str) -> str:
        return f'[Found 1 matches for "{term}" in {where}]\n{line}\n[End of matches for "{term}" in {where}]'

    in_shop = "/workspace/shop.py (Line 7): result += price"
    done = replayed(here, recording(
        cell("open_file('/workspace/shop.py')", f"[File: /workspace/shop.py (9 lines total)]\n{body}"),
        cell(replace % ("=", "result += ("), syntax),
        cell(replace % ("==", "x"), absent),
        cell(replace % ("=", "result += price"), f"[File: /workspace/shop.py (9 lines total after edit)]\n{fixed}"),
        cell("search_file('+=')", told("+=", "/workspace/shop.py", "Line 7: result += price")),
        cell("search_dir('+=', dir_path='/workspace')", told("+=", "/workspace", in_shop)),
        cell("find_file('hop')", told("hop", "./", "./shop.py")),
        cell("create_file('notes.ts')", "[File: /workspace/notes.ts (1 lines total)]\n1|"),
        cell("append_file('notes.ts', content='a\\nc')", "[File: /workspace/notes.ts]\n1|\n2|a\n3|c"),
        cell("insert_content_at_line('notes.ts', 3, 'b')", "[File: /workspace/notes.ts]\n2|a\n3|b\n4|c"),
        cell("edit_file_by_replace('notes.ts', to_replace='b', new_content='}{')", syntax),
        cell("import shop\nprint(shop.total([1, 2]), open('/workspace/notes.ts').read())", "3 \na\nb\nc"),
        cell("open('/workspace/left.txt', 'w').write('x')\nprint('wrote')", "wrote then"),
        cell("open_file(chosen)", "[File: /workspace/shop.py (9 lines total)]"),
        patch=diff(SHOP, FIXED),
        harness=Harness.OPENHANDS,
        root="/workspace",
    ))  # fmt: skip
    others = {step.index: step.differences for step in done.steps if step.how != "same"}
    assert others.keys() == {12, 13}
    assert [difference.kind for index in (12, 13) for difference in others[index]] == [Kind.OURS] * 2, "never as a view"
    assert "taken as recorded" in done.steps[10].note
    assert done.patch == "the same change"


def test_our_own_trajectory_comes_out_the_same(here: Place, tmp_path: Path):
    with here.session() as session, JsonlJournal(tmp_path / "t.jsonl") as journal:
        block = "<<<<<<< SEARCH\n        result = price\n=======\n        result += price\n>>>>>>> REPLACE"
        agent = Agent(
            FakeModel(
                call(("read_file", '{"path": "shop.py"}'), ("read_file", '{"pth": "shop.py"}')),
                call(("search_replace", f'{{"file_path": "shop.py", "content": {__import__("json").dumps(block)}}}')),
                call(("bash", '{"command": "cat missing"}')),
                say("done"),
                say("done"),
            ),
            session,
            journal,
            Task(repository="a/b", issue_number=1, title="t", body="b", base_commit=here.commit),
            limits=Limits(),
            price=Price(),
            sampling=Sampling(),
            cancel=threading.Event(),
            changes=FakeChanges(here.git_dir, here.commit),
            review=True,
        )
        end = agent.run(lambda: journal.begin(header(agent, Isolation.BASIC)))
        journal.end(end, here.repos.patch(here.git_dir, here.commit, end.final_tree))
    (found,) = load(tmp_path / "t.jsonl")
    assert [step.act.tool for step in found.steps] == [
        "read_file",
        "read_file",
        "search_replace",
        "bash",
        "answer",
        "submit",
    ]
    assert [step.call for step in found.steps] == [0, 0, 1, 2, 3, 4]
    assert (found.prompt_hash is not None, found.totals.calls, found.exit_status) == (True, 5, "submitted")
    done = replayed(here, found)
    assert [step.how for step in done.steps] == ["same"] * 4 + ["nothing to compare"] * 2
    assert (done.ours, done.patch) == (0, "the same change")
    assert found.root == WORKSPACE


@pytest.mark.parametrize(
    ("recorded", "now", "known", "kinds"),
    [
        ("2 passed in 0.31s", "2 passed in 1.2s", Known(), {Kind.TIME}),
        ("id 136634213167888", "id 134701549740336", Known(), {Kind.ENVIRONMENT}),
        ("x = 1", "x = 2", Known(command="cat a.py"), {Kind.ENVIRONMENT}),  # of the base: nothing has changed a.py
        ("x = 1", "x = 2", Known(command="cat a.py", changed=frozenset({"a.py"})), {Kind.OURS}),
        ("x = 1", "x = 2", Known(command="cat a.py > b; cat b"), {Kind.OURS}),
        ("ok", "No module named 'numpy'", Known(command="python t.py"), {Kind.ENVIRONMENT}),
        ("ok", "No module named 'shop'", Known(command="python t.py", modules=frozenset({"shop"})), {Kind.OURS}),
        ("Successfully installed", "no network", Known(command="pip install x"), {Kind.ENVIRONMENT}),
        ("1 failed", "2 failed", Known(command="pytest"), {Kind.OURS}),
        ("same", "same", Known(exit_codes=(0, 1)), {Kind.OURS}),
        ("a\tb\r\n", "a       b", Known(), set()),
    ],
)
def test_kinds_of_differences(recorded: str, now: str, known: Known, kinds: set[Kind]):
    assert {difference.kind for difference in compare(recorded, now, known)} == kinds
