"""The sizes of the paper's models and Fusers, and the writer of checkpoints of those sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from benchmarks.full_size import checkpoints
from benchmarks.full_size.checkpoints import config_names, model_on_meta, read_fields, write_pair
from c2c_export.fusers.fuser import C2CFuserLayer
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_export.pair.published import PUBLISHED
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import resolve_model

# Of the public model cards; Gemma-3-1B's card says 1B, its weights hold this many.
PARAMETERS = {
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen2.5_0.5b": 494_032_768,
    "qwen2.5_math_1.5b": 1_543_714_304,
    "llama3.2_1b": 1_235_814_400,
    "gemma3_1b": 999_885_952,
}
# Fusers of hidden size 1024, in millions, of the published collection.
FUSER_MILLIONS = {
    ("qwen3_0.6b", "qwen2.5_0.5b"): 477.8,
    ("qwen3_0.6b", "llama3.2_1b"): 499.9,
    ("qwen3_0.6b", "qwen2.5_math_1.5b"): 485.2,
}
PUBLISHED_NAMES = {
    ("qwen3_0.6b", "qwen2.5_0.5b"): "qwen3_0.6b+qwen2.5_0.5b",
    ("qwen3_0.6b", "llama3.2_1b"): "qwen3_0.6b+llam3.2_1b",
    ("qwen3_0.6b", "qwen2.5_math_1.5b"): "qwen3_0.6b+qwen2.5_1.5b_math",
}


def kv_sizes(name: str) -> tuple[int, int, int]:
    """Layers, KV heads, head size, as the key projection has them."""
    model = model_on_meta(name)
    num_kv_heads = model.config.num_key_value_heads
    rows = model.model.layers[0].self_attn.k_proj.out_features
    return model.config.num_hidden_layers, num_kv_heads, rows // num_kv_heads


def test_every_model_of_the_paper_that_is_built_is_here():
    assert set(config_names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_model_card(name):
    assert model_on_meta(name).num_parameters() == PARAMETERS[name]


@pytest.mark.parametrize(("receiver", "sharer"), FUSER_MILLIONS)
def test_fusers_have_the_published_size(receiver, sharer):
    num_layers, receiver_heads, receiver_dim = kv_sizes(receiver)
    _, sharer_heads, sharer_dim = kv_sizes(sharer)
    shape = FuserShape(sharer_heads, sharer_dim, receiver_heads, receiver_dim)
    assert shape == PUBLISHED[PUBLISHED_NAMES[receiver, sharer]].shape
    init_args = {
        "source_dim": sharer_dim,
        "target_dim": receiver_dim,
        "source_num_heads": sharer_heads,
        "target_num_heads": receiver_heads,
    }
    with torch.device("meta"):
        layer = C2CFuserLayer.from_init_args(init_args)
    millions = num_layers * sum(p.numel() for p in layer.parameters()) / 1e6
    assert round(millions, 1) == FUSER_MILLIONS[receiver, sharer]


def test_an_unknown_model_is_named_with_those_that_are_here():
    with pytest.raises(KeyError, match=r"no config qwen9; there are gemma3_1b"):
        read_fields("qwen9")


@pytest.fixture
def small_sizes(monkeypatch):
    """The real configs with fewer and smaller layers, in shards of 100 kB."""
    small = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": 512,
        "max_window_layers": 2,
    }

    def fields(name):
        known = json.loads((checkpoints.CONFIGS / f"{name.lower()}.json").read_text("utf-8"))
        return known | {field: size for field, size in small.items() if field in known}

    monkeypatch.setattr(checkpoints, "read_fields", fields)
    monkeypatch.setattr(checkpoints, "_SHARD_BYTES", 100_000)


@pytest.mark.parametrize("name", ["qwen3_0.6b", "gemma3_1b", "llama3.2_1b"])
def test_what_is_written_loads_and_answers_with_varied_finite_logits(tmp_path, small_sizes, name):
    directory = checkpoints.write_model(name, tmp_path / "model")
    assert len(list(directory.glob("*.safetensors"))) > 1
    model = load_model(resolve_model(str(directory)))
    with torch.no_grad():
        logits = model(torch.arange(24)[None]).logits[0]
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0.05
    assert len(set(logits.argmax(-1).tolist())) > 4


def test_the_same_seed_gives_the_same_bytes(tmp_path, small_sizes):
    first, second, other = (
        checkpoints.write_model("qwen2.5_0.5b", tmp_path / name, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
    file = "model-00001.safetensors"
    assert (first / file).read_bytes() != (other / file).read_bytes()


def test_both_roles_can_be_played_by_one_model(tmp_path, small_sizes, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        checkpoints, "init_fuser", lambda receiver, sharer, path, **_: shapes.append((receiver, sharer))
    )  # fmt: skip
    paths = write_pair("qwen3_0.6b", "qwen3_0.6b", tmp_path / "pair")
    assert paths["receiver"] != paths["sharer"]
    receiver, sharer = shapes[0]
    assert replace(receiver) == sharer
    AutoConfig.from_pretrained(paths["receiver"])


def test_the_command_refuses_what_it_does_not_know(tmp_path):
    root = Path(__file__).resolve().parents[2]
    called = subprocess.run(
        [sys.executable, "-m", "benchmarks.full_size", "qwen3_0.6b+nothing", str(tmp_path / "x")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert called.returncode == 2
    assert "nothing" in called.stderr
    assert "qwen2.5_0.5b" in called.stderr
    assert not (tmp_path / "x").exists()
