"""The rows: for each, the target in words, what was reached, and whether that is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.performance_table.measured import Measured

SHORT, MIDDLE, LONG, LONGEST = 32, 128, 512, 1024  # prompt lengths of the runs, in tokens
FULL_SIZE_TOKENS = 170
# Where both eager chains were measured, the one as published is what counts.
EAGER = "eager"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ok`` None: not measured."""

    what: str
    target: str
    reached: str
    ok: bool | None


@dataclass(frozen=True)
class Limit:
    """One number of a row and what it may be: at most, or at least where ``is_least``."""

    name: str
    value: float | None
    bound: float
    is_least: bool = False
    show: Callable[[float], str] = "{:.2f}".format

    @property
    def ok(self) -> bool | None:
        """Whether it is kept; None: not measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def __str__(self) -> str:
        reached = "not measured" if self.value is None else self.show(self.value)
        return f"{self.name} {reached}".strip()


def row(what: str, target: str, *limits: Limit) -> Row:
    """A row that is kept if each of its numbers is, and open while one is missing and none fails."""
    states = [limit.ok for limit in limits]
    ok = False if False in states else None if None in states else True
    return Row(what, target, "; ".join(map(str, limits)), ok)


def _with(made: Row, beside: float | str | None, words: str) -> Row:
    """The row with one more number, which no target is about; as it is if that was not measured."""
    if beside is None:
        return made
    return replace(made, reached=f"{made.reached} ({words.format(beside)})")


def all_rows(measured: Measured) -> list[Row]:
    """Every row, in the order of the page."""
    return [make(measured) for make in _ROWS]


def _decode_fp32(m: Measured) -> Row:
    decode = m.decode("fp32 receiver", SHORT) or {}
    return row(
        "decode step, fp32",
        "at most 0.65 of ONNX Runtime GenAI fp32; at least 90 % of memory bandwidth",
        Limit("GenAI", m.ratio("fp32 receiver", "genai-fp32", "decode_step", SHORT), 0.65),
        Limit("bandwidth", decode.get("bandwidth_share"), 0.9, is_least=True, show="{:.0%}".format),
    )


def _decode_int4(m: Measured) -> Row:
    peers = {
        name: m.ratio("int4 receiver", name, "decode_step", SHORT)
        for name in ("genai-int4", "llamacpp")
    }
    # At most 0.75 of the better one is at most 0.75 of each.
    made = row(
        "decode step, int4",
        "at most 0.75 of the better of ONNX Runtime GenAI int4 and llama.cpp Q4",
        *(Limit(name, value, 0.75) for name, value in peers.items()),
    )
    mixed = m.ratio("int4 receiver", "genai-int4-mixed", "decode_step", SHORT)
    return _with(made, mixed, "to GenAI's int4 with a part in 8 bits: {:.2f}")


def _decode_eager(m: Measured) -> Row:
    return row(
        "decode step against the eager chain",
        "at most 0.42 (fp32), 0.13 (int4)",
        Limit("fp32", m.ratio("fp32 c2c", EAGER, "decode_step", MIDDLE), 0.42),
        Limit("int4", m.ratio("int4 c2c", EAGER, "decode_step", MIDDLE), 0.13),
    )


def _prefill(m: Measured) -> Row:
    pairs = (("fp32", "genai-fp32"), ("int4", "genai-int4"), ("int4", "llamacpp"))
    return row(
        "prefill of 1024 tokens, Receiver alone",
        "at most 0.45 of ONNX Runtime GenAI and of llama.cpp, at the same precision",
        *(
            Limit(f"{part} to {peer}", m.ratio(f"{part} receiver", peer, "first_token", LONGEST), 0.45)
            for part, peer in pairs
        ),
    )  # fmt: skip


def _first_token_eager(m: Measured) -> Row:
    bounds = {MIDDLE: 0.33, LONG: 0.42}
    lean = [m.ratio("fp32 c2c", "eager-last", "first_token", length) for length in bounds]
    beside = None if None in lean else " and ".join(f"{value:.2f}" for value in lean)
    made = row(
        "time to first token of C2C against the eager chain, 128 and 512 tokens, fp32",
        "at most 0.33 and 0.42",
        *(
            Limit(f"{length}", m.ratio("fp32 c2c", EAGER, "first_token", length), bound)
            for length, bound in bounds.items()
        ),
    )
    return _with(made, beside, "to a chain that computes no logits but the last: {}")


def _first_token_prefills(m: Measured) -> Row:
    return row(
        "time to first token of C2C against the two prefills alone",
        "at most 1.15",
        *(
            Limit(f"{part} {length}", m.ratio(f"{part} c2c", f"{part} prefills", "first_token", length), 1.15)
            for part in ("fp32", "int8", "int4")
            for length in (MIDDLE, LONG)
        ),
    )  # fmt: skip


def _runtime(m: Measured) -> Row:
    limits = []
    for part in ("fp32", "int8", "int4"):
        decode = m.decode(f"{part} receiver", SHORT) or {}
        share, seconds = decode.get("added_share"), decode.get("added_s")
        micros = None if seconds is None else seconds * 1e6
        limits.append(Limit(part, share, 0.05, show="{:.1%}".format))
        limits.append(Limit("", micros, 150, show="{:.0f} µs".format))
    return row(
        "what the runtime adds to the graph's own time, a decode step",
        "at most 5 % and 150 µs",
        *limits,
    )


def _capacity(m: Measured) -> Row:
    limits = []
    for part in ("fp32", "int4"):
        ratio = m.capacity_ratio(part, 512, 8192)
        apart = None if ratio is None else abs(ratio - 1)
        limits.append(Limit(part, apart, 0.05, show="{:.1%}".format))
    return row("same 64-token context, capacity 512 and 8192", "within 5 %", *limits)


def _memory(m: Measured) -> Row:
    limits = []
    for part in ("fp32", "int8", "int4"):
        bundle = m.bundle(part)
        share = None
        if bundle is not None and bundle["fresh"] is not None:
            share = bundle["fresh"]["running_bytes"] / bundle["memory_limit_bytes"]
        limits.append(Limit(part, share, 1.0, show="{:.0%} of that".format))
    return row("memory while running", "weights + caches + 20 % + 80 MB", *limits)


def _half_gates(m: Measured) -> Row:
    ratio = m.ratio("half_gates c2c", "fp32 c2c", "fuse", LONG)
    return row(
        "a fuser with half its gates closed, 512 tokens",
        "fuse time at most 0.6 of all open",
        Limit("", ratio, 0.6),
    )


def _full_size(m: Measured) -> Row:
    ratio = m.ratio("full_size c2c", EAGER, "fuse", FULL_SIZE_TOKENS)
    return row(
        "full-size Qwen3-0.6B <- Qwen2.5-0.5B (random weights), int8: fuse time against the eager fuser, 170 tokens",
        "at most 0.5",
        Limit("", ratio, 0.5),
    )


def _cold_start(m: Measured) -> Row:
    bundle = m.bundle("int4")
    fresh = None if bundle is None else bundle["fresh"]
    return row(
        "cold start, bundle to first token of a 32-token prompt, int4",
        "at most 1.5 s",
        Limit("", None if fresh is None else fresh["first_token_s"], 1.5, show="{:.2f} s".format),
    )


def _loss(m: Measured) -> Row:
    bounds: Mapping[str, tuple[float, float]] = {"int8": (0.97, 1.01), "int4": (0.85, 1.10)}
    limits = []
    for part, (agreement, perplexity) in bounds.items():
        loss = m.losses.get(part, {})
        limits += [
            Limit(f"{part} agreement", loss.get("greedy_agreement"), agreement, True, "{:.1%}".format),
            Limit("perplexity", loss.get("perplexity_ratio"), perplexity, show="{:.3f}".format),
        ]  # fmt: skip
    return row(
        "loss by quantisation, int8 / int4 with block 32",
        "greedy agreement at least 97 % / 85 %, perplexity at most 1.01 / 1.10 of fp32",
        *limits,
    )


_ROWS: Sequence[Callable[[Measured], Row]] = (
    _decode_fp32,
    _decode_int4,
    _decode_eager,
    _prefill,
    _first_token_eager,
    _first_token_prefills,
    _runtime,
    _capacity,
    _memory,
    _half_gates,
    _full_size,
    _cold_start,
    _loss,
)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table for docs/performance.md."""
    words = {True: "yes", False: "**no**", None: "open"}
    lines = ["| | target | reached | kept |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.target} | {r.reached} | {words[r.ok]} |" for r in rows]
    return "\n".join(lines)
