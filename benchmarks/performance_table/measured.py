"""What several runs of ``bench`` measured, looked up by name. Works on their JSON, so also on a file."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """``runs``: reports of ``bench``. ``labels``: what the bundle of each part is called in them
    (fp32, int8, int4, half_gates, full_size); a part that was not measured has none. ``losses``: by
    part, what its manifest says that few bits cost."""

    runs: Sequence[Mapping[str, Any]]
    labels: Mapping[str, str]
    losses: Mapping[str, Mapping[str, float]]

    def contender(self, name: str) -> str | None:
        """``fp32 c2c`` -> the contender's name in the runs; peers keep theirs. None: not measured."""
        part, separator, mode = name.partition(" ")
        if not separator:
            return name
        label = self.labels.get(part)
        return None if label is None else f"{label} {mode}"

    def ratio(self, ours: str, other: str, metric: str, prompt_tokens: int) -> float | None:
        """The median ratio; None where it was not measured."""
        wanted = (self.contender(ours), self.contender(other), metric, prompt_tokens)
        for ratio in self._all("ratios"):
            found = (ratio["ours"], ratio["other"], ratio["metric"], ratio["prompt_tokens"])
            if found == wanted:
                return float(ratio["median"])
        return None

    def decode(self, name: str, prompt_tokens: int) -> Mapping[str, Any] | None:
        """The decode facts of a contender."""
        wanted = (self.contender(name), prompt_tokens)
        for item in self._all("measurements"):
            if (item["contender"], item["prompt_tokens"]) == wanted:
                decode: Mapping[str, Any] | None = item["decode"]
                return decode
        return None

    def bundle(self, part: str) -> Mapping[str, Any] | None:
        """The facts of a part's bundle, from the first run that has it."""
        label = self.labels.get(part)
        return next((b for b in self._all("bundles") if b["label"] == label), None)

    def capacity_ratio(self, part: str, small: int, large: int) -> float | None:
        """A decode step with caches of ``large`` tokens over one with ``small``: median over rounds."""
        for sweep in self._all("sweeps"):
            if sweep["name"] != "capacity" or sweep["bundle"] != self.labels.get(part):
                continue
            steps = {point["x"]: point["seconds"]["decode step"] for point in sweep["points"]}
            if small in steps and large in steps:
                pairs = zip(steps[large], steps[small], strict=True)
                return statistics.median(a / b for a, b in pairs)
        return None

    def _all(self, key: str) -> Iterator[Mapping[str, Any]]:
        for run in self.runs:
            yield from run[key]
