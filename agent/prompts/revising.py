"""What the model is told of a change that was made before: the change, and what people say about it or ask."""

from __future__ import annotations

from agent.prompts.fence import bounded, tag_for, visible
from agent.prompts.templates import fill
from agent.tools.text import elide
from agent.types import Remark, Revision

FILE = "revise.md"
MOST_REMARKS = 40  # of one review; more are named as left out
_REMARK_BYTES, _HUNK_BYTES = 4_000, 2_000


def told(revision: Revision, room: int) -> list[str]:
    """`room`: bytes that the change may take, and again the remarks together."""
    parts = []
    if revision.diff.strip():
        diff = elide(revision.diff, room)
        files = "1 file" if revision.files == 1 else f"{revision.files} files"
        parts.append(
            fill(FILE, "revise", starts_at=revision.starts_at, files=files, tag=tag_for("change", diff), diff=diff)
        )
    if revision.question is not None:
        body = bounded(visible(revision.question), min(room, 4 * _REMARK_BYTES))
        parts.append(fill(FILE, "question", tag=tag_for("question", body), body=body))
    elif revision.remarks:
        each = max(200, min(_REMARK_BYTES, room // min(len(revision.remarks), MOST_REMARKS)))
        remarks = [_remark(remark, each) for remark in revision.remarks[:MOST_REMARKS]]
        left_out = len(revision.remarks) - len(remarks)
        more = [f"({left_out} more remarks do not fit here; answer none of them.)"] if left_out else []
        parts.append(fill(FILE, "remarks", remarks="\n\n".join([*remarks, *more])))
    return parts


def _remark(remark: Remark, room: int) -> str:
    body = bounded(visible(remark.body), room)
    line = f":{remark.line}" if remark.line is not None else ""
    place = f", at {visible(remark.path)}{line}" if remark.path is not None else ""
    told = fill(
        FILE,
        "remark",
        number=str(remark.number),
        author=visible(remark.author),
        place=place,
        tag=tag_for("remark", body),
        body=body,
    )
    if not remark.hunk.strip():
        return told
    hunk = elide(remark.hunk, min(room, _HUNK_BYTES))
    return f"{told}\n\n{fill(FILE, 'code', tag=tag_for('code', hunk), hunk=hunk)}"
