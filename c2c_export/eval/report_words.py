"""The words and tables of an evaluation, as Markdown, HTML and terminals show them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from c2c_export.eval.report import EvalReport, ModeSummary
from c2c_export.reports.words import ms

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]  # heads, rows

_SCORING = {
    "generate": "answers generated",
    "letter": "likelihood of the option's letter",
    "text": "likelihood of the option's text a byte",
}


def facts_line(report: EvalReport) -> str:
    """What was asked of what, in one line."""
    key, task = report.key, report.task
    skipped = f", {task.num_skipped} left out: {task.why_skipped}" if task.num_skipped else ""
    style = {"chat": "chats", "plain": "plain prompts"}[key.prompt_style]
    return (
        f"{len(task.items)} items of {task.name} ({task.source}{skipped}), bundle {key.bundle}; "
        f"{_SCORING[key.scoring]}, {style}, at most {key.max_new_tokens} tokens"
    )


def machine_words(report: EvalReport) -> str:
    """Where it ran."""
    machine = report.machine
    threads = report.key.num_threads
    words = "one a core" if threads is None else f"{threads}"
    return f"{machine.cpu}, {machine.num_cores} cores, threads: {words}, device {report.key.device}"


def summary_rows(report: EvalReport) -> Rows:
    """A row a mode."""
    heads = (
        "mode", "right", "accuracy (95 % interval)", "no answer found", "did not fit", "first token, ms (p50)",
        "a question, ms (mean)", "tokens in", "tokens out",
    )  # fmt: skip
    rows = [
        (
            mode.name,
            f"{mode.accuracy.num_right} of {mode.accuracy.num_items}",
            str(mode.accuracy),
            str(mode.num_without),
            str(mode.num_misfits),
            ms(mode.first_token_p50_s),
            ms(mode.question_s),
            f"{mode.prompt_tokens:.1f}",
            f"{mode.num_tokens:.1f}",
        )
        for mode in report.modes
    ]
    return heads, rows


def versus_rows(report: EvalReport) -> Rows:
    """A row a mode but the Receiver alone."""
    heads = (
        "mode", "difference, points (95 % interval)", "p", "both right", "only the mode", "only the Receiver", "neither",
    )  # fmt: skip
    names = {mode.mode: mode.name for mode in report.modes}
    rows = []
    for found in report.versus:
        paired = found.paired
        low, high = paired.interval
        counts = (paired.both, paired.only_first, paired.only_second, paired.neither)
        rows.append(
            (
                names[found.mode],
                f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
                f"{paired.p_value:.2g}",
                *(str(count) for count in counts),
            )
        )
    return heads, rows


def agreement_rows(report: EvalReport, first: ModeSummary, what: str) -> list[float]:
    """Shares of ``first`` with each mode: items with the "same answer", or "both right". With itself:
    items with an answer, or right."""
    shares = []
    for second in report.modes:
        found = report.agreement(first.mode, second.mode)
        if found is not None:
            shares.append(found.same_answer if what == "same answer" else found.both_right)
        elif what == "same answer":
            num_without = first.num_without + first.num_misfits
            shares.append(1 - num_without / first.accuracy.num_items)
        else:
            shares.append(first.accuracy.share)
    return shares


def group_rows(report: EvalReport) -> Rows | None:
    """Accuracy by group and mode; None where items have no groups."""
    groups = report.modes[0].groups
    if not groups:
        return None
    heads = ("group", "items", *(mode.name for mode in report.modes))
    rows = [
        (name, str(groups[name].num_items), *(str(mode.groups[name]) for mode in report.modes))
        for name in groups
    ]
    return heads, rows


def markdown(report: EvalReport) -> str:
    """The report as Markdown, without single items."""
    parts = ["# c2c-export eval", facts_line(report) + ".", machine_words(report) + "."]
    if report.command:
        parts.append(f"```\n{report.command}\n```")
    parts.append(_markdown_table(summary_rows(report)))
    if report.versus:
        parts += ["## Against the Receiver alone", _markdown_table(versus_rows(report))]
    if len(report.modes) > 1:
        for what in ("same answer", "both right"):
            heads = ("", *(mode.name for mode in report.modes))
            rows = [
                (
                    mode.name,
                    *(f"{100 * share:.1f} %" for share in agreement_rows(report, mode, what)),
                )
                for mode in report.modes
            ]
            parts += [f"## Share of items: {what}", _markdown_table((heads, rows))]
    groups = group_rows(report)
    if groups is not None:
        parts += ["## By group", _markdown_table(groups)]
    return "\n\n".join(parts) + "\n"


def print_report(report: EvalReport, console: Console) -> None:
    """The tables of a terminal."""
    console.print(facts_line(report), markup=False)
    console.print(_rich_table(summary_rows(report)))
    if report.versus:
        console.print(_rich_table(versus_rows(report), "Against the Receiver alone"))


def _rich_table(rows: Rows, title: str | None = None) -> Table:
    table = Table(*rows[0], title=title)
    for row in rows[1]:
        table.add_row(*row)
    return table


def _markdown_table(rows: Rows) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1]]
    return "\n".join("| " + " | ".join(_cell(word) for word in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
