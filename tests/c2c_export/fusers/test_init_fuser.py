"""Random Fusers: published layout, same bytes for a seed, and what each option does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from paths import GOLDEN

from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_export.fusers.init_fuser import init_fuser, k_nearest, last_aligned
from c2c_runtime.bundle.manifest import ModelDims
from c2c_runtime.errors import UnavailableError, UsageError

RECEIVER = ModelDims("qwen3", 5, 2, 8, 256, 512, None, "float32")
SHARER = ModelDims("qwen2", 3, 1, 12, 256, 512, None, "float32")
SMALL = {"hidden_dim": 16, "intermediate_dim": 24}


def weights_of(fuser, index=0):
    return torch.load(fuser / "final" / f"projector_{index}.pt", weights_only=True)


def test_what_is_written_reads_back(tmp_path):
    checkpoint = read_fuser(init_fuser(RECEIVER, SHARER, tmp_path / "f", num_layers=4, **SMALL))
    assert {spec.shape for spec in checkpoint.layers.values()} == {FuserShape(1, 12, 2, 8)}
    assert checkpoint.links == {0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (1, 3), 4: (2, 4)}
    assert all(link.key_gate and link.value_gate for link in checkpoint.layer_links())
    layer = checkpoint.load_layers()[0]
    assert layer.get_parameter("key_proj_mlp2.blocks.1.w1.weight").shape == (24, 16)


def test_files_are_those_of_a_published_checkpoint(tmp_path):
    ours = init_fuser(replace(RECEIVER, num_layers=4), SHARER, tmp_path / "f", **SMALL)
    published = GOLDEN / "qwen3_from_qwen2" / "fuser"

    def names(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

    assert names(ours) == names(published)
    assert set(weights_of(ours)) == set(weights_of(published))
    described = json.loads((ours / "final" / "projector_0.json").read_text())
    assert described["class"] == "C2CProjector"
    assert described["init_args"]["dtype"] == {"__type__": "torch.dtype", "value": "float32"}


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    first, second = (
        init_fuser(RECEIVER, SHARER, tmp_path / name, seed=7, **SMALL) for name in ("a", "b")
    )
    other = init_fuser(RECEIVER, SHARER, tmp_path / "c", seed=8, **SMALL)
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) == 2 * 5 + 2
    assert all((first / f).read_bytes() == (second / f).read_bytes() for f in files)
    assert any((first / f).read_bytes() != (other / f).read_bytes() for f in files)


def test_the_global_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    init_fuser(RECEIVER, SHARER, tmp_path / "f", **SMALL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("share", "num_open"), [(0.0, 0), (0.5, 5), (0.98, 10), (1.0, 10)])
def test_the_share_of_open_gates(tmp_path, share, num_open):
    fuser = init_fuser(RECEIVER, SHARER, tmp_path / "f", open_share=share, **SMALL)
    links = read_fuser(fuser).layer_links()
    assert sum(link.key_gate + link.value_gate for link in links) == num_open


def test_the_seed_chooses_the_gates(tmp_path):
    gates = set()
    for seed in range(4):
        fuser = init_fuser(RECEIVER, SHARER, tmp_path / str(seed), seed=seed, open_share=0.5, **SMALL)  # fmt: skip
        gates.add(tuple((l.key_gate, l.value_gate) for l in read_fuser(fuser).layer_links()))  # noqa: E741
    assert len(gates) > 1


def test_scale_multiplies_what_is_added(tmp_path):
    sharer = torch.randn(1, 1, 6, 12)
    receiver = torch.randn(1, 2, 6, 8)
    added = {}
    for scale in (0.0, 0.1, 1.0):
        fuser = init_fuser(RECEIVER, SHARER, tmp_path / str(scale), scale=scale, **SMALL)
        layer = read_fuser(fuser).load_layers()[0]
        added[scale] = layer(sharer, sharer, receiver, receiver)[0] - receiver
    assert added[0.0].abs().max() == 0
    torch.testing.assert_close(added[0.1], 0.1 * added[1.0], atol=1e-6, rtol=1e-4)
    assert added[1.0].std() > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_every_weight(tmp_path, dtype):
    fuser = init_fuser(RECEIVER, SHARER, tmp_path / "f", dtype=dtype, **SMALL)
    assert {weight.dtype for weight in weights_of(fuser).values()} == {getattr(torch, dtype)}
    assert len(read_fuser(fuser).load_layers()) == 5


def test_the_recipe_is_kept(tmp_path):
    recipe = {"is_do_alignment": True, "alignment_strategy": "longest", "base_model": "r"}
    checkpoint = read_fuser(init_fuser(RECEIVER, SHARER, tmp_path / "f", recipe=recipe, **SMALL))
    assert checkpoint.alignment == "longest"
    assert checkpoint.recipe["model"]["base_model"] == "r"
    assert checkpoint.recipe["model"]["mapping"] == "last_aligned"


def test_an_existing_directory_is_not_overwritten(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "precious").write_text("")
    with pytest.raises(UsageError, match="exists") as caught:
        init_fuser(RECEIVER, SHARER, tmp_path / "f", **SMALL)
    assert caught.value.exit_code == 2
    assert "--force" in caught.value.remedy
    assert (tmp_path / "f" / "precious").exists()


def test_force_replaces_a_fuser(tmp_path):
    old = init_fuser(RECEIVER, SHARER, tmp_path / "f", **SMALL)
    (old / "final" / "projector_77.pt").write_text("")
    fuser = init_fuser(SHARER, RECEIVER, tmp_path / "f", force=True, **SMALL)
    assert len(read_fuser(fuser).layers) == SHARER.num_layers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


def test_force_replaces_nothing_but_fusers(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "precious").write_text("")
    with pytest.raises(UsageError, match="neither empty nor a Fuser"):
        init_fuser(RECEIVER, SHARER, tmp_path / "f", force=True, **SMALL)
    assert (tmp_path / "f" / "precious").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be written") as caught:
        init_fuser(RECEIVER, SHARER, tmp_path / "file" / "f", **SMALL)
    assert caught.value.exit_code == 5
    assert caught.value.remedy


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def save(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        init_fuser(RECEIVER, SHARER, tmp_path / "f", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ({"num_layers": 2}, "too shallow"),
        ({"open_share": 1.5}, "share of open gates"),
        ({"hidden_dim": 0}, "hidden sizes"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": -1.0}, "scale is -1"),
    ],
)
def test_impossible_arguments_leave_nothing(tmp_path, option, cause):
    with pytest.raises(UsageError, match=cause) as caught:
        init_fuser(RECEIVER, SHARER, tmp_path / "f", **(SMALL | option))
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("receiver", "sharer", "layers"),
    [
        (4, 3, [0, 0, 1, 2]),  # golden qwen3_from_qwen2
        (5, 7, [2, 3, 4, 5, 6]),  # golden qwen3_from_gemma3
        (3, 3, [0, 1, 2]),
        (4, 1, [0, 0, 0, 0]),
    ],
)
def test_last_aligned(receiver, sharer, layers):
    assert last_aligned(receiver, sharer) == layers


@pytest.mark.parametrize(
    ("receiver", "sharer", "layers"),
    [
        (3, 5, [0, 2, 4]),
        (5, 3, [0, 0, 1, 1, 2]),  # 0.25 and 0.75 are ties: the front one
        (1, 4, [0]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_k_nearest(receiver, sharer, layers):
    assert k_nearest(receiver, sharer) == layers


def test_k_nearest_can_be_asked_for(tmp_path):
    fuser = init_fuser(RECEIVER, SHARER, tmp_path / "f", mapping="k_nearest", **SMALL)
    assert [layer for layer, _ in read_fuser(fuser).links.values()] == [0, 0, 1, 1, 2]
