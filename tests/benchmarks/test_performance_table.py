"""The table of docs/performance.md: what counts as kept, from made-up runs of ``bench``."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from benchmarks.performance_table import __main__ as table
from benchmarks.performance_table.__main__ import main
from benchmarks.performance_table.measured import Measured
from benchmarks.performance_table.rows import all_rows, markdown
from c2c_runtime.bundle.manifest import Loss, LossBounds, LossSpec

LABELS = {"fp32": "a", "int8": "b", "int4": "c", "half_gates": "d", "full_size": "e"}
GOOD_RATIOS = (
    ("a receiver", "genai-fp32", "decode_step", 32, 0.65),
    ("c receiver", "genai-int4", "decode_step", 32, 0.75),
    ("c receiver", "llamacpp", "decode_step", 32, 0.7),
    ("a c2c", "eager", "decode_step", 128, 0.42),
    ("c c2c", "eager", "decode_step", 128, 0.13),
    ("a receiver", "genai-fp32", "first_token", 1024, 0.45),
    ("c receiver", "genai-int4", "first_token", 1024, 0.4),
    ("c receiver", "llamacpp", "first_token", 1024, 0.4),
    ("a c2c", "eager", "first_token", 128, 0.33),
    ("a c2c", "eager", "first_token", 512, 0.42),
    *(
        (f"{label} c2c", f"{label} prefills", "first_token", length, 1.15)
        for label in "abc"
        for length in (128, 512)
    ),
    ("d c2c", "a c2c", "fuse", 512, 0.6),
    ("e c2c", "eager", "fuse", 170, 0.5),
)


def bundle(label):
    fresh = {"running_bytes": 99, "first_token_s": 1.5}
    return {"label": label, "memory_limit_bytes": 100.0, "fresh": fresh}


def run(**changes):
    """A run in which every target is just reached."""
    decode = {"bandwidth_share": 0.9, "added_share": 0.05, "added_s": 149e-6}
    points = [
        {"x": size, "seconds": {"decode step": [step, 2 * step, step]}}
        for size, step in ((512, 1.0), (8192, 1.04))
    ]
    return {
        "ratios": [
            dict(zip(("ours", "other", "metric", "prompt_tokens", "median"), row, strict=True))
            for row in GOOD_RATIOS
        ],
        "measurements": [
            {"contender": f"{label} receiver", "prompt_tokens": 32, "decode": decode}
            for label in "abc"
        ],
        "bundles": [bundle(label) for label in "abc"],
        "sweeps": [{"name": "capacity", "bundle": label, "points": points} for label in "ac"],
    } | changes


LOSSES = {
    "int8": {"greedy_agreement": 0.97, "perplexity_ratio": 1.01},
    "int4": {"greedy_agreement": 0.85, "perplexity_ratio": 1.10},
}


def test_every_target_that_is_reached_is_kept():
    rows = all_rows(Measured([run()], LABELS, LOSSES))
    assert len(rows) == 13
    assert [row.what for row in rows if not row.ok] == []
    assert "| open |" not in markdown(rows)


@pytest.mark.parametrize("place", range(len(GOOD_RATIOS)), ids=lambda place: " ".join(map(str, GOOD_RATIOS[place][:4])))  # fmt: skip
def test_each_ratio_can_fail_one_row(place):
    ratios = run()["ratios"]
    ratios[place] = ratios[place] | {"median": 1.2 * ratios[place]["median"]}
    rows = all_rows(Measured([run(ratios=ratios)], LABELS, LOSSES))
    assert sum(row.ok is False for row in rows) == 1
    assert markdown(rows).count("| **no** |") == 1


def test_what_was_not_measured_is_open():
    rows = all_rows(Measured([run(ratios=[])], {"fp32": "a"}, {}))
    assert {row.ok for row in rows} == {None}
    assert "not measured" in markdown(rows)


def test_a_saved_run_is_printed_again(tmp_path):
    saved = tmp_path / "saved.json"
    saved.write_text(
        json.dumps({"measured": {"runs": [run()], "labels": LABELS, "losses": LOSSES}})
    )
    called = CliRunner().invoke(main, ["--from", str(saved)])
    assert called.exit_code == 0, called.output
    assert called.output.count("| yes |") == 13


@pytest.mark.parametrize("has_loss", [True, False])
def test_the_loss_is_what_the_manifest_says(tmp_path, monkeypatch, has_loss):
    measured = Loss(512, 20.2, 20.0, 0.97, 0.01, 0.99, 0.98)
    spec = LossSpec("golden/loss.npz", True, LossBounds(0.9, 0.5, 0.3), measured)
    manifest = SimpleNamespace(loss=spec if has_loss else None)
    monkeypatch.setattr(table, "read_manifest", lambda bundle: manifest)
    found = table.loss_of(tmp_path)
    expected = LOSSES["int8"] if has_loss else {}
    assert found == pytest.approx(expected)
