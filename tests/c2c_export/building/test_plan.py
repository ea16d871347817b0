"""What a build needs is known, and refused where it is not there, before anything is traced."""

from __future__ import annotations

from collections import namedtuple

import pytest
from tiny_bundles import options_of, source_of
from tiny_models import tiny_pair

from c2c_export.building import plan
from c2c_export.building.plan import predict_need
from c2c_export.fusers.fuser_checkpoint import read_fuser


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return tiny_pair(tmp_path_factory.mktemp("plan"), receiver={"layers": 1}, sharer={"layers": 1})


def need_of(pair):
    source = source_of(pair)
    fusers = [read_fuser(path) for path in source.fusers]
    return predict_need([source.receiver, *source.sharers], fusers), fusers


def test_weights_are_counted_from_their_headers(pair):
    need, fusers = need_of(pair)
    files = [(pair[side] / "model.safetensors").stat().st_size for side in ("receiver", "sharer")]
    fuser = 4 * fusers[0].num_parameters
    assert fusers[0].num_parameters > 10_000
    assert need.disk_bytes == pytest.approx(sum(files) + fuser + 64 * 2**20, rel=1e-3)
    assert need.memory_bytes > 2.5 * max(files) + fuser


def test_baselines_are_counted_once_more_on_the_disk(pair):
    source = source_of(pair)
    models, fusers = [source.receiver, *source.sharers], [read_fuser(p) for p in source.fusers]
    alone, whole = (predict_need(models, fusers, 0, more) for more in ((), source.sharers))
    sharer = (pair["sharer"] / "model.safetensors").stat().st_size
    assert whole.disk_bytes - alone.disk_bytes == pytest.approx(sharer, rel=0.01)
    assert whole.memory_bytes == alone.memory_bytes  # one model at a time


def test_a_build_that_needs_more_memory_than_allowed_is_refused(cli, pair, tmp_path):
    called = cli("build", *options_of(pair), "-o", tmp_path / "b", "--max-build-memory", 0.5)
    assert called.code == 5
    assert "may need 0.7 GiB" in called.err
    assert "allows 0.5 GiB" in called.err
    assert "export Sharer" not in called.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "result", "words"),
    [
        ("available_bytes", 2**28, "is available 0.2 GiB"),
        ("shutil.disk_usage", namedtuple("D", "free")(2**20), "needs 0.1 GiB of disk"),
    ],
)
def test_a_build_that_this_machine_cannot_do_is_refused(
    cli, pair, tmp_path, monkeypatch, function, result, words
):
    monkeypatch.setattr(f"{plan.__name__}.{function}", lambda *_: result)
    called = cli("build", *options_of(pair), "-o", tmp_path / "b")
    assert called.code == 5
    assert words in called.err
    assert list(tmp_path.iterdir()) == []


def test_pairs_lists_what_build_knows_by_name(cli):
    from c2c_export.pair.published import PUBLISHED

    listed = cli("pairs", "--json").json
    assert {row["name"] for row in listed} == set(PUBLISHED)
    assert {"Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-0.5B-Instruct"} <= {
        row[side] for row in listed for side in ("receiver", "sharer")
    }
    assert "qwen3_0.6b" in cli("pairs").out
