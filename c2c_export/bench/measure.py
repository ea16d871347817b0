"""One run of ``bench``: bundles and peers are set up, take turns, and what came of it is put together."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2c_export.bench.bandwidth import Bandwidth, measure_bandwidth
from c2c_export.bench.baseline_contender import bundle_contenders
from c2c_export.bench.bundle_contender import MeasuredBundle
from c2c_export.bench.contender import DEFAULT_MODES, Contender, MeasuredMode
from c2c_export.bench.fresh_process import FreshProcess, Request, measure_fresh
from c2c_export.bench.peer import PeerSetup
from c2c_export.bench.peers import SkippedPeer, make_peers
from c2c_export.bench.results import BenchReport, BundleFacts, labels_of
from c2c_export.bench.rounds import ratios_of, take_turns
from c2c_export.bench.sweeps import SweepName, run_sweep
from c2c_export.bench.text import prompt_ids
from c2c_export.bench.weight_bytes import step_bytes, weight_bytes
from c2c_export.reports.machine_facts import machine_facts
from c2c_runtime.errors import UsageError
from c2c_runtime.machine.backend_choice import Wish
from c2c_runtime.text.text_to_text import TextToText

if TYPE_CHECKING:
    from c2c_export.pair.pair import PairSource

_FRESH_TOKENS = 32  # of the prompt that a fresh process answers


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. ``source``: the checkpoints, which peers need. ``build_reports``: JSON files
    that ``build --json`` printed. ``bandwidth_mib``: what is read to measure the memory. ``modes``: of
    every bundle. ``message_tokens``: length of text-to-text's message; None: as it comes, at most 256."""

    prompt_tokens: tuple[int, ...] = (32, 128, 512)
    num_new: int = 64
    num_rounds: int = 3
    peers: tuple[str, ...] = ()
    source: PairSource | None = None
    sweeps: tuple[SweepName, ...] = ()
    num_threads: int | None = None
    device: Wish = "auto"
    build_reports: tuple[Path, ...] = ()
    bandwidth_mib: int = 512
    command: str = ""
    modes: tuple[MeasuredMode, ...] = DEFAULT_MODES
    message_tokens: int | None = None

    @property
    def text_to_text(self) -> TextToText:
        """How the Sharers' message is asked for."""
        if self.message_tokens is None:
            return TextToText()
        return TextToText(max_message_tokens=self.message_tokens, fixed_length=True)


def run_bench(
    paths: Sequence[Path], options: BenchOptions, say: Callable[[str], None] = lambda what: None
) -> BenchReport:
    """Measure the bundles at ``paths``. ``say`` is told what happens next.

    Raises ``UsageError`` before anything is measured where prompts do not fit a bundle.
    """
    started, began = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    machine = machine_facts()
    num_threads = options.num_threads or machine.num_cores
    reports = _build_reports(options.build_reports)
    with contextlib.ExitStack() as stack:
        opened: list[MeasuredBundle] = []
        ours: list[Contender] = []
        names = labels_of([path.resolve().name.removesuffix(".bundle") for path in paths])
        for path, label in zip(paths, names, strict=True):
            say(f"open {path}")
            one = MeasuredBundle(
                path, label, device=options.device, num_threads=options.num_threads
            )
            stack.callback(one.close)
            _check_fits(one, options)
            opened.append(one)
            ours += bundle_contenders(one, options.modes, options.text_to_text)
        say("measure the memory bandwidth")
        before = measure_bandwidth(num_threads, options.bandwidth_mib)
        bundles = [
            _bundle_facts(path, one, options, reports, say)
            for path, one in zip(paths, opened, strict=True)
        ]
        peers: list[Contender] = []
        skipped: list[SkippedPeer] = []
        if options.source is not None and options.peers:
            first = opened[0]
            setup = PeerSetup(
                options.source,
                first.session.sections_of_ids,
                max(options.prompt_tokens) + options.num_new,
                num_threads,
            )
            peers, skipped = make_peers(options.peers, setup, say)
            for peer in peers:
                stack.callback(peer.close)
        prompts = [prompt_ids(opened[0].session, length) for length in options.prompt_tokens]
        measurements = take_turns(
            _interleaved(ours, peers), prompts, options.num_new, options.num_rounds, say
        )
        sweeps = []
        for name in options.sweeps:
            for one in opened:
                say(f"sweep {name}, {one.label}")
                sweeps.append(run_sweep(name, one, options.num_new, options.num_rounds))
        say("measure the memory bandwidth again")
        after = measure_bandwidth(num_threads, options.bandwidth_mib)
    return BenchReport(
        command=options.command,
        started_at=began,
        seconds=time.perf_counter() - started,
        num_threads=num_threads,
        machine=machine,
        bandwidth=_both(before, after),
        bundles=tuple(bundles),
        measurements=tuple(measurements),
        ratios=tuple(ratios_of(measurements)),
        sweeps=tuple(sweeps),
        skipped_peers=tuple(skipped),
    )


def _interleaved(ours: Sequence[Contender], peers: Sequence[Contender]) -> list[Contender]:
    """Peer, ours, peer, ours, ... as far as both last."""
    mixed: list[Contender] = []
    for place in range(max(len(ours), len(peers))):
        mixed += peers[place : place + 1]
        mixed += ours[place : place + 1]
    return mixed


def _both(before: Bandwidth, after: Bandwidth) -> Bandwidth:
    """Of two measurements the faster: the slower one was disturbed."""
    return max(before, after, key=lambda measured: measured.bytes_per_s)


def _check_fits(opened: MeasuredBundle, options: BenchOptions) -> None:
    longest, limit = max(options.prompt_tokens), opened.bundle.manifest.limits.max_seq_len
    message = options.text_to_text.max_message_tokens if "t2t" in options.modes else 0
    if longest + options.num_new + message > limit:
        told = f", a message of {message}" if message else ""
        raise UsageError(
            f"{longest} prompt tokens{told} and {options.num_new} new ones do not fit into "
            f"{opened.label}, whose caches hold {limit}",
            ("give a smaller --message-tokens, or " if message else "")
            + "give smaller --prompt-tokens and --new-tokens, or build it with a larger --max-seq-len",
        )


def _bundle_facts(
    path: Path,
    opened: MeasuredBundle,
    options: BenchOptions,
    reports: dict[str, dict[str, Any]],
    say: Callable[[str], None],
) -> BundleFacts:
    manifest = opened.bundle.manifest
    gates = [gate for sharer in manifest.pair.sharers for gate in sharer.gates]
    report = reports.get(path.resolve().name, {})
    return BundleFacts(
        label=opened.label,
        pair=manifest.pair.name,
        precision=manifest.precision,
        num_gates=len(gates),
        num_open_gates=sum(gates),
        max_seq_len=manifest.limits.max_seq_len,
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        weight_bytes=weight_bytes(opened.bundle),
        step_bytes=step_bytes(opened.bundle),
        caches_bytes=opened.caches_bytes,
        build_s=report.get("seconds"),
        build_peak_bytes=report.get("peak_memory_bytes"),
        fresh=_fresh(path, opened, options, say),
    )


def _fresh(
    path: Path, opened: MeasuredBundle, options: BenchOptions, say: Callable[[str], None]
) -> FreshProcess:
    """The middle one, by the time to the first token, of as many processes as there are rounds."""
    limit = opened.bundle.manifest.limits.max_seq_len
    ids = prompt_ids(opened.session, min(_FRESH_TOKENS, limit // 2))
    num_new = min(options.num_new, limit - len(ids))
    request = Request(str(path), tuple(ids), num_new, options.device, options.num_threads)
    results = []
    for number in range(options.num_rounds):
        say(f"{opened.label} in a process of its own, {number + 1} of {options.num_rounds}")
        results.append(measure_fresh(request))
    return sorted(results, key=lambda result: result.first_token_s)[len(results) // 2]


def _build_reports(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What ``build --json`` said of each bundle, by the folder's name."""
    reports = {}
    for path in paths:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            reports[Path(report["bundle"]).resolve().name] = report
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} is no report of a build: {error}",
                "give what `c2c-export build --json` printed",
            ) from error
    return reports
