"""What a run of ``bench`` came to, and its JSON: every raw sample beside its median."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from c2c_export.bench.bandwidth import Bandwidth
from c2c_export.bench.fresh_process import FreshProcess
from c2c_export.bench.peers import SkippedPeer
from c2c_export.bench.rounds import Measurement, Ratio
from c2c_export.bench.sweeps import Sweep
from c2c_export.reports.machine_facts import MachineFacts

SCHEMA_VERSION = 1
# What a running process may hold: this share of weights and caches, and these bytes.
_MEMORY_SHARE, _MEMORY_BYTES = 1.2, 80e6


@dataclass(frozen=True)
class BundleFacts:
    """A bundle as it lies there. ``step_bytes``: weights that a decode step reads; None: unknown.
    ``build_s``: None where no report of the build was given."""

    label: str
    pair: str
    precision: str
    num_gates: int
    num_open_gates: int
    max_seq_len: int
    size_bytes: int
    weight_bytes: dict[str, int]
    step_bytes: int | None
    caches_bytes: int
    build_s: float | None
    build_peak_bytes: int | None
    fresh: FreshProcess | None

    @property
    def memory_limit_bytes(self) -> float:
        """Weights and caches, a fifth more, and 80 MB: what it is held to while running."""
        return (sum(self.weight_bytes.values()) + self.caches_bytes) * _MEMORY_SHARE + _MEMORY_BYTES


@dataclass(frozen=True)
class DecodeFacts:
    """Decode steps of one measurement, seconds. ``added_s``: what a step takes beyond its graph, the
    median; ``added_share``: of the graph's own time. ``bandwidth_share``: weights read a second, of
    the memory bandwidth. None: not known."""

    p50_s: float
    p99_s: float
    tokens_per_s: float
    added_s: float | None = None
    added_share: float | None = None
    bandwidth_share: float | None = None


@dataclass(frozen=True)
class BenchReport:
    """Everything that was measured in one run."""

    command: str
    started_at: str
    seconds: float
    num_threads: int
    machine: MachineFacts
    bandwidth: Bandwidth
    bundles: tuple[BundleFacts, ...]
    measurements: tuple[Measurement, ...]
    ratios: tuple[Ratio, ...]
    sweeps: tuple[Sweep, ...]
    skipped_peers: tuple[SkippedPeer, ...]

    def bundle_of(self, measurement: Measurement) -> BundleFacts | None:
        """The bundle that was measured; None for a peer."""
        for bundle in self.bundles:
            if measurement.contender == f"{bundle.label} {measurement.mode}":
                return bundle
        return None

    def decode(self, measurement: Measurement) -> DecodeFacts | None:
        """Its decode steps; None where it had none."""
        steps = measurement.steps_s
        if not steps:
            return None
        p50, p99 = (float(np.percentile(steps, percent)) for percent in (50, 99))
        facts = DecodeFacts(p50, p99, len(steps) / sum(steps))
        bundle = self.bundle_of(measurement)
        graph = [step for run in measurement.runs for step in run.graph_steps_s]
        if bundle is None or not graph:
            return facts
        added = statistics.median(a - b for a, b in zip(steps, graph, strict=True))
        graph_s = statistics.median(graph)
        share = None
        if bundle.step_bytes is not None and measurement.mode != "sharer":
            share = bundle.step_bytes / p50 / self.bandwidth.bytes_per_s
        return DecodeFacts(p50, p99, facts.tokens_per_s, added, added / graph_s, share)

    def ratio(self, ours: str, other: str, metric: str, prompt_tokens: int) -> Ratio | None:
        """One of the ratios; None where it was not measured."""
        wanted = (ours, other, metric, prompt_tokens)
        for ratio in self.ratios:
            if (ratio.ours, ratio.other, ratio.metric, ratio.prompt_tokens) == wanted:
                return ratio
        return None

    def as_json(self) -> dict[str, Any]:
        """Plain values. Times in seconds, sizes in bytes."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "started_at": self.started_at,
            "seconds": self.seconds,
            "num_threads": self.num_threads,
            "machine": asdict(self.machine),
            "bandwidth": asdict(self.bandwidth) | {"bytes_per_s": self.bandwidth.bytes_per_s},
            "bundles": [
                asdict(bundle) | {"memory_limit_bytes": bundle.memory_limit_bytes}
                for bundle in self.bundles
            ],
            "measurements": [self._measurement(item) for item in self.measurements],
            "ratios": [
                asdict(ratio)
                | {"samples": ratio.samples, "median": ratio.median, "best": ratio.best}
                for ratio in self.ratios
            ],
            "sweeps": [asdict(sweep) for sweep in self.sweeps],
            "skipped_peers": [asdict(peer) for peer in self.skipped_peers],
        }

    def _measurement(self, measurement: Measurement) -> dict[str, Any]:
        decode = self.decode(measurement)
        return asdict(measurement) | {
            "first_token_s": measurement.median("first_token"),
            "stages": measurement.median_stages(),
            "message_share": measurement.message_share,
            "decode": None if decode is None else asdict(decode),
        }


def labels_of(names: Sequence[str]) -> list[str]:
    """A short name for each bundle: its folder's, with a number where two are called the same."""
    labels: list[str] = []
    for name in names:
        label, number = name, 2
        while label in labels:
            label, number = f"{name}#{number}", number + 1
        labels.append(label)
    return labels
