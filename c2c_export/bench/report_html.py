"""The report as one page: charts and tables, nothing loaded from anywhere."""

from __future__ import annotations

from html import escape

from c2c_export.bench.contender import MODES
from c2c_export.bench.report_text import DISTURBED, STAGES, is_disturbed, machine_line
from c2c_export.bench.results import BenchReport
from c2c_export.bench.rounds import Measurement
from c2c_export.reports.charts import Bar, bar_chart, line_chart
from c2c_export.reports.html_page import page, table
from c2c_export.reports.stage_names import MESSAGE, PREFILLS, RECEIVER, RUNTIME, SHARER
from c2c_export.reports.words import ms

_LEGEND = (*STAGES, "not split", RUNTIME, MESSAGE)


def html_page(report: BenchReport) -> str:
    """The whole page. It needs no network and no script."""
    lengths = list(dict.fromkeys(item.prompt_tokens for item in report.measurements))
    body = [
        "<h1>c2c-export bench</h1>",
        f"<p>{escape(machine_line(report))}. {escape(report.started_at)}, {report.seconds:.0f} s.<br>"
        f"<code>{escape(report.command)}</code></p>",
        f"<p><strong>{DISTURBED}</strong></p>" if is_disturbed(report) else "",
        "<h2>Time to the first token</h2>",
        "<p>Medians over rounds in which all took turns. Stages are the time inside the graphs; what is "
        "left is the runtime's.</p>",
        *(_first_token(report, length) for length in lengths),
        "<h2>Decode step</h2>",
        *(_decode(report, length) for length in lengths),
        *_side_by_side(report),
        *_sweeps(report),
        "<h2>Ratios</h2>",
        "<p>Medians over rounds of the ratio in each round; below 1 is faster.</p>",
        _ratios(report),
        "<h2>Bundles</h2>",
        _bundles(report),
        "<h2>Versions</h2>",
        table(("package", "version"), report.machine.versions.items()),
    ]
    if report.skipped_peers:
        peers = [(peer.name, peer.why) for peer in report.skipped_peers]
        body += ["<h2>Left out</h2>", table(("peer", "why"), peers)]
    return page("c2c-export bench", body)


def _at(report: BenchReport, length: int) -> list[Measurement]:
    """What computes the same side by side, bundles first."""
    found = [item for item in report.measurements if item.prompt_tokens == length]
    return sorted(found, key=lambda item: (MODES.index(item.mode), item.is_peer))


def _first_token(report: BenchReport, length: int) -> str:
    items, bars = _at(report, length), []
    is_told = any(item.message_share is not None for item in items)
    legend = _LEGEND if is_told else _LEGEND[:-1]
    for item in items:
        first = item.median("first_token") or 0.0
        bars.append(Bar(item.contender, _parts(item, first)[: len(legend)], f"{ms(first)} ms"))
    return bar_chart(f"{length} tokens, ms", bars, legend)


def _parts(item: Measurement, first: float) -> tuple[float, ...]:
    """Milliseconds by stage. Prefills that ran side by side share the time that both took."""
    stages = item.median_stages()
    if not stages:
        return (0.0, 0.0, 0.0, 0.0, first * 1e3, 0.0, 0.0)
    both = stages[SHARER] + stages[RECEIVER]
    shrink = stages[PREFILLS] / both if both else 1.0
    parts = [stages[stage] * (shrink if stage in (SHARER, RECEIVER) else 1.0) for stage in STAGES]
    rest = (max(stages.get(stage, 0.0), 0.0) * 1e3 for stage in (RUNTIME, MESSAGE))
    return (*(part * 1e3 for part in parts), 0.0, *rest)


def _decode(report: BenchReport, length: int) -> str:
    bars = []
    for item in _at(report, length):
        decode = report.decode(item)
        if decode is not None:
            text = f"{ms(decode.p50_s)} ms, p99 {ms(decode.p99_s)}"
            bars.append(Bar(item.contender, (decode.p50_s * 1e3,), text, item.is_peer))
    return bar_chart(f"after {length} tokens, ms a step (p50)", bars)


def _side_by_side(report: BenchReport) -> list[str]:
    """What precision and closed gates change, where several bundles were measured."""
    if len(report.bundles) < 2:
        return []
    charts = ["<h2>Fuse, by precision and gates</h2>"]
    for length in dict.fromkeys(item.prompt_tokens for item in report.measurements):
        bars = []
        for item in _at(report, length):
            bundle, fuse = report.bundle_of(item), item.median("fuse")
            if bundle is not None and fuse is not None:
                gates = f"{bundle.num_open_gates} of {bundle.num_gates} gates open"
                words = f"{ms(fuse)} ms, {bundle.precision}, {gates}"
                bars.append(Bar(bundle.label, (fuse * 1e3,), words))
        charts.append(bar_chart(f"{length} tokens, ms", bars))
    return charts


def _sweeps(report: BenchReport) -> list[str]:
    parts = []
    for name in dict.fromkeys(sweep.name for sweep in report.sweeps):
        parts.append(f"<h2>By {escape(name)}</h2>")
        sweeps = [sweep for sweep in report.sweeps if sweep.name == name]
        parts += [f"<p>{escape(s.bundle)}: {escape(s.skipped)}</p>" for s in sweeps if s.skipped]
        measured = [sweep for sweep in sweeps if sweep.points]
        kinds = dict.fromkeys(k for s in measured for point in s.points for k in point.seconds)
        for kind in kinds:
            series = {
                sweep.bundle: [(point.x, point.median(kind) * 1e3) for point in sweep.points]
                for sweep in measured
            }
            parts.append(line_chart(f"{kind}, ms", _X_NAMES[name], series))
    return parts


_X_NAMES = {
    "prompt": "prompt tokens",
    "capacity": "capacity of the caches, tokens",
    "batch": "rows",
}


def _ratios(report: BenchReport) -> str:
    rows = [
        (
            ratio.ours,
            ratio.other,
            ratio.metric.replace("_", " "),
            str(ratio.prompt_tokens),
            f"{ratio.median:.2f}",
            f"{ratio.best:.2f}",
            " ".join(f"{sample:.2f}" for sample in ratio.samples),
        )
        for ratio in report.ratios
    ]
    heads = ("ours", "against", "what", "tokens in", "ratio", "of the best rounds", "rounds")
    return table(heads, rows)


def _bundles(report: BenchReport) -> str:
    rows = []
    for bundle in report.bundles:
        fresh = bundle.fresh
        rows.append(
            (
                bundle.label,
                bundle.precision,
                f"{bundle.num_open_gates} of {bundle.num_gates}",
                f"{bundle.size_bytes / 1e6:.0f} MB",
                f"{sum(bundle.weight_bytes.values()) / 1e6:.0f} + {bundle.caches_bytes / 1e6:.0f} MB",
                "" if fresh is None else f"{fresh.running_bytes / 1e6:.0f} MB",
                f"{bundle.memory_limit_bytes / 1e6:.0f} MB",
                "" if fresh is None else f"{fresh.first_token_s:.2f} s",
                "" if bundle.build_s is None else f"{bundle.build_s:.0f} s",
            )
        )
    heads = (
        "bundle", "precision", "gates open", "size", "weights + caches", "while running", "may hold",
        "cold start", "build",
    )  # fmt: skip
    return table(heads, rows)
