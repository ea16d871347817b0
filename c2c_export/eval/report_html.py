"""The evaluation as one page: charts, tables, and the items where modes differ. What models and task
files wrote is escaped."""

from __future__ import annotations

from html import escape

from c2c_export.eval.answering import STAGES, ModeAnswer
from c2c_export.eval.report import EvalReport, ModeSummary
from c2c_export.eval.report_words import (
    agreement_rows,
    facts_line,
    group_rows,
    machine_words,
    summary_rows,
    versus_rows,
)
from c2c_export.reports.charts import Bar, Point, bar_chart, point_chart
from c2c_export.reports.html_page import page, table
from c2c_export.reports.stage_names import DECODE, FUSE, MESSAGE, RECEIVER, SHARER
from c2c_export.reports.words import ms

_LEGEND = (*STAGES, "rest")
_MAX_DIFFERING = 200
_MAX_CHARACTERS = 600  # of one question or output
_STYLE = """
svg line.s0, svg line.s1, svg line.s2, svg line.s3, svg line.s4, svg line.s5 { stroke-width: 1.6; }
td.right { color: var(--c2); } td.wrong { color: var(--c5); }
table.wide td { white-space: pre-wrap; vertical-align: top; min-width: 7rem; overflow-wrap: anywhere; }
td.share { text-align: center; background: color-mix(in srgb, var(--c0) calc(var(--share) * 55%), transparent); }
"""


def html_page(report: EvalReport) -> str:
    """The whole page. It needs no network and no script."""
    heads, rows = summary_rows(report)
    points = [
        Point(mode.name, mode.question_s * 1e3, mode.accuracy.share, *mode.accuracy.interval)
        for mode in report.modes
    ]
    bars = [
        Bar(mode.name, _parts(mode), f"{ms(mode.question_s)} ms a question")
        for mode in report.modes
    ]
    body = [
        "<h1>c2c-export eval</h1>",
        f"<p>{escape(facts_line(report))}<br>{escape(machine_words(report))}<br>"
        f"<code>{escape(report.command)}</code></p>",
        "<h2>Accuracy and time</h2>",
        point_chart("Accuracy, with 95 % intervals, against time", "ms a question, mean", points),
        table(heads, rows),
    ]
    if report.versus:
        body += [
            "<h2>Against the Receiver alone</h2>",
            "<p>On the same items. The difference is in percentage points, with its paired 95 % interval "
            "(Newcombe 1998, method 10); p is McNemar's exact test.</p>",
            table(*versus_rows(report)),
        ]
    body += [
        "<h2>Where the time goes</h2>",
        "<p>Means an item. Prefills that ran side by side share the time that both took.</p>",
        bar_chart("ms a question, by stage", bars, _LEGEND),
    ]
    if len(report.modes) > 1:
        body += [
            "<h2>Agreement</h2>",
            _matrix(report, "same answer"),
            _matrix(report, "both right"),
        ]
    groups = group_rows(report)
    if groups is not None:
        body += ["<h2>By group</h2>", table(*groups)]
    body += _differing(report)
    return page("c2c-export eval", body, _STYLE)


def _parts(mode: ModeSummary) -> tuple[float, ...]:
    """Milliseconds by stage, in the order of the legend; together the time of a question."""
    stages = mode.stages
    before = mode.question_s - stages[DECODE]
    both = stages[SHARER] + stages[RECEIVER]
    room = max(before - stages[FUSE] - stages[MESSAGE], 0.0)
    shrink = min(room / both, 1.0) if both else 1.0
    rest = max(room - both, 0.0)
    parts = (both and stages[SHARER] * shrink, both and stages[RECEIVER] * shrink)
    return tuple(
        part * 1e3 for part in (*parts, stages[FUSE], stages[MESSAGE], stages[DECODE], rest)
    )


def _matrix(report: EvalReport, what: str) -> str:
    """One share a pair of modes; with itself, of items with an answer or right."""
    head = "".join(f"<th>{escape(mode.name)}</th>" for mode in report.modes)
    lines = []
    for first in report.modes:
        cells = "".join(
            f'<td class="share" style="--share: {share:.3f}">{100 * share:.1f} %</td>'
            for share in agreement_rows(report, first, what)
        )
        lines.append(f"<tr><th>{escape(first.name)}</th>{cells}</tr>")
    rows = "".join(lines)
    return (
        f'<figure><figcaption>Share of items: {escape(what)}</figcaption><div class="scroll">'
        f"<table><tr><th></th>{head}</tr>{rows}</table></div></figure>"
    )


def _differing(report: EvalReport) -> list[str]:
    """The items that some modes got right and others wrong."""
    items = report.differing
    if len(report.modes) < 2:
        return []
    title = f"<h2>Items where modes differ: {len(items)} of {len(report.task.items)}</h2>"
    if not items:
        return [title, "<p>Every mode got the same items right.</p>"]
    shown = items[:_MAX_DIFFERING]
    heads = ("item", "question", "expected", *(mode.name for mode in report.modes))
    head = "".join(f"<th>{escape(word)}</th>" for word in heads)
    lines = []
    for item in shown:
        answers = report.answers[item.id]
        cells = "".join(f"<td>{escape(_short(word))}</td>" for word in (item.id, item.question, item.expected))  # fmt: skip
        cells += "".join(_answer_cell(answers[mode.mode]) for mode in report.modes)
        lines.append(f"<tr>{cells}</tr>")
    left = (
        f"<p>The first {len(shown)}; results.jsonl has all.</p>" if len(shown) < len(items) else ""
    )
    rows = "".join(lines)
    return [
        title,
        left,
        f'<div class="scroll"><table class="wide"><tr>{head}</tr>{rows}</table></div>',
    ]


def _answer_cell(answer: ModeAnswer) -> str:
    words = "none found" if answer.answer is None else answer.answer
    if answer.misfit:
        words = f"did not fit: {answer.misfit}"
    output = answer.output.strip()
    if output and output != words:
        words = f"{words}\n“{_short(output)}”"
    kind, sign = ("right", "✓") if answer.is_right else ("wrong", "✗")
    return f'<td class="{kind}">{sign} {escape(words)}</td>'


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
