"""An eval's results for people: lines for a terminal, Markdown and HTML."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from worker import money
from worker.evals.results import Result
from worker.evals.statistics import Comparison, Estimate, rate

HEAD = ("instance", "resolved", "ended", "steps", "tokens", "USD", "seconds", "what is wrong")


def row(result: Result) -> list[str]:
    tokens = result.usage.prompt + result.usage.completion
    wrong = result.error or "; ".join(
        f"{len(tests)} {words}"
        for tests, words in ((result.failing, "still fail"), (result.worse, "pass no more"))
        if tests
    )
    return [
        result.instance_id,
        "yes" if result.resolved else "no",
        result.exit_status or "error",
        str(result.steps),
        str(tokens),
        money.usd(result.usd_low, result.usd),
        f"{result.seconds:.1f}",
        wrong,
    ]


def summary(results: Sequence[Result], total: int) -> list[str]:
    """Its head figures, a line each."""
    solved = sum(result.resolved for result in results)
    seen = [result.telemetry for result in results]
    edits = [one.first_edit for one in seen if one.first_edit is not None]
    lines = [
        f"resolved {solved} of {len(results)} ({share(rate(solved, len(results)))}); {total - len(results)} not done",
        (
            f"cost {money.usd(sum(r.usd_low for r in results), sum(r.usd for r in results))}, "
            f"{sum(r.usage.prompt for r in results)} tokens in ({sum(r.usage.cached for r in results)} cached), "
            f"{sum(r.usage.completion for r in results)} out, {sum(r.steps for r in results)} steps"
        ),
        f"malformed calls {by_tool(one.malformed for one in seen)}; failed calls {by_tool(one.failed for one in seen)}",
        (
            f"edits that missed {sum(one.missed_edits for one in seen)}; commands that took too long "
            f"{by_tool(one.timed_out for one in seen)}; new beginnings {sum(one.compactions for one in seen)}"
        ),
        "ends " + ", ".join(f"{k} {n}" for k, n in sorted(Counter(r.exit_status or "error" for r in results).items())),
    ]
    if edits:
        lines.append(f"steps to the first edit {sum(edits) / len(edits):.1f} (of {len(edits)} that edited)")
    return lines


def by_tool(counts: Iterable[Mapping[str, int]]) -> str:
    """`bash 3, grep 1`, or `none`."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return ", ".join(f"{tool} {count}" for tool, count in sorted(total.items()) if count) or "none"


def share(estimate: Estimate) -> str:
    """`50.0 %, 95 % interval 23.7 to 76.3`."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}".replace("%", " %")
    low, high = estimate.low * 100, estimate.high * 100
    return f"{estimate.value * 100:.1f} %, 95 % interval {low:.1f} to {high:.1f}"


def compared(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(lines, rows of a table) of two evals side by side."""
    a, b = comparison.rates
    lines = [
        f"{comparison.pairs} instances in both; {comparison.only[0]} only in A, {comparison.only[1]} only in B",
        f"A resolved {share(a)}",
        f"B resolved {share(b)}",
        f"only B resolved: {', '.join(comparison.won) or 'none'}",
        f"only A resolved: {', '.join(comparison.lost) or 'none'}",
    ]
    rows = [
        [name, f"{left:.4g}", f"{right:.4g}", f"{gap.value:+.4g}", _between(gap)]
        for name, left, right, gap in comparison.rows
    ]
    return lines, rows


def _between(gap: Estimate) -> str:
    return "" if gap.low is None or gap.high is None else f"{gap.low:+.4g} to {gap.high:+.4g}"


def write(folder: Path, results: Sequence[Result], total: int) -> tuple[Path, Path]:
    """`report.md` and `report.html` in an eval's folder."""
    lines, rows = summary(results, total), [row(result) for result in results]
    model = ", ".join(sorted({result.model for result in results}))
    hashes = ", ".join(sorted({result.prompt_hash[:12] for result in results if result.prompt_hash})) or "none"
    title = f"Eval of {model}"
    about = f"Prompt {hashes}. Scored in our sandbox; the official harness takes predictions.jsonl."
    markdown = folder / "report.md"
    table = [HEAD, ["---"] * len(HEAD), *rows]
    markdown.write_text(
        f"# {_cell(title)}\n\n{about}\n\n"
        + "".join(f"- {_cell(line)}\n" for line in lines)
        + "\n"
        + "".join("| " + " | ".join(_cell(cell) for cell in cells) + " |\n" for cells in table),
        encoding="utf-8",
    )
    page = folder / "report.html"
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in each)}</tr>\n" for each in rows)
    page.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        "<style>body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(about)}</p>\n"
        f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>\n"
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in HEAD)}</tr>\n{cells}</table>\n</html>\n",
        encoding="utf-8",
    )
    return markdown, page


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
