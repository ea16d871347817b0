"""A GGUF file computes what the same model computes as safetensors, or is refused by name."""

from __future__ import annotations

import math

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import write_gguf
from tiny_models import LLAMA3_ROPE, tiny_model

from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.errors import PairError

SIZES = {"vocab": 424, "layers": 2}
LINEAR, YARN = gguf.RopeScalingType.LINEAR, gguf.RopeScalingType.YARN


def dims_of(path):
    source = resolve_model(str(path))
    return model_dims(read_config(source), source)


def causes_of(path):
    with pytest.raises(PairError) as caught:
        dims_of(path)
    assert all("safetensors" in problem.remedy for problem in caught.value.problems)
    return [problem.cause for problem in caught.value.problems]


def llama3_divisors(rope, head_dim=16):
    """As llama.cpp's converter writes rope_freqs.weight."""
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    divisors = []
    for frequency in 1 / rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim):
        length = 2 * math.pi / frequency
        share = (low * rope["low_freq_factor"] / length - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"]
        )
        smooth = 1 / ((1 - share) / rope["factor"] + share)
        divisors.append(1 if length < high else rope["factor"] if length > low else smooth)
    return np.array(divisors, np.float32)


def scaling(kind, factor, context=None):
    def write(writer):
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(factor)
        if context is not None:
            writer.add_rope_scaling_orig_ctx_len(context)

    return write


def window(writer):
    writer.add_sliding_window(16)


THETA = {"rope_theta": 10000.0}
CASES = {
    "plain llama": ("llama", "llama", {}, (), {}),
    "plain qwen3": ("qwen3", "qwen3", {}, (), {}),
    "llama 3.1": (
        "llama",
        "llama",
        {"rope_parameters": LLAMA3_ROPE},
        (),
        {"rope_freqs.weight": llama3_divisors(LLAMA3_ROPE)},
    ),
    "linear": (
        "llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0} | THETA},
        (scaling(LINEAR, 4.0),),
        {},
    ),
    "linear by an old key": (
        "llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0} | THETA},
        (lambda writer: writer.add_float32("llama.rope.scale_linear", 4.0),),
        {},
    ),
    "yarn": (
        "qwen2",
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            }
            | THETA
        },
        (scaling(YARN, 4.0, 128),),
        {},
    ),
    "gemma 3": (
        "gemma3_text",
        "gemma3",
        {
            "layers": 7,
            "query_pre_attn_scalar": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        (scaling(LINEAR, 8.0), window),
        {},
    ),
    "phi 3 with a window": ("phi3", "phi3", {}, (window,), {}),
    "phi 4 mini, rotated in part": (
        "phi3",
        "phi3",
        {"sliding_window": None, "rope_parameters": {"partial_rotary_factor": 0.5} | THETA},
        (),
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_computes_what_its_safetensors_compute(tmp_path, case):
    model_type, architecture, config, also, tensors = CASES[case]
    original = tiny_model(tmp_path / "m", model_type, **(SIZES | config))
    path = write_gguf(original, tmp_path / "m.gguf", architecture, *also, tensors=tensors)
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 400, (1, 200)))
    with torch.no_grad():
        found, expected = (
            load_model(resolve_model(str(p)))(input_ids=ids).logits for p in (path, original)
        )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.fixture
def llama(tmp_path):
    return tiny_model(tmp_path / "llama", "llama", **SIZES)


def test_another_rope_table_than_llama3s_is_refused(tmp_path, llama):
    other = {"rope_freqs.weight": np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32)}
    path = write_gguf(llama, tmp_path / "m.gguf", "llama", tensors=other)
    assert ["rope_freqs.weight" in cause for cause in causes_of(path)] == [True]


def test_a_rope_table_of_ones_changes_nothing(tmp_path, llama):
    ones = {"rope_freqs.weight": np.ones(8, np.float32)}
    source = resolve_model(str(write_gguf(llama, tmp_path / "m.gguf", "llama", tensors=ones)))
    assert read_config(source).rope_parameters["rope_type"] == "default"


def test_longrope_is_refused_by_its_tensors(tmp_path):
    original = tiny_model(tmp_path / "m", "phi3", **SIZES)
    tensors = {f"rope_factors_{kind}.weight": np.ones(6, np.float32) for kind in ("long", "short")}
    path = write_gguf(original, tmp_path / "m.gguf", "phi3", tensors=tensors)
    long, short = causes_of(path)
    assert "rope_factors_long.weight" in long
    assert "rope_factors_short.weight" in short


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (scaling(gguf.RopeScalingType.LONGROPE, 2.0), "llama.rope.scaling.type = longrope"),
        (lambda w: w.add_rope_scaling_attn_factors(1.2), "llama.rope.scaling.attn_factor"),
        (lambda w: w.add_final_logit_softcapping(30.0), "llama.final_logit_softcapping = 30.0"),
        (lambda w: w.add_logit_scale(0.5), "llama.logit_scale = 0.5"),
        (lambda w: w.add_causal_attention(False), "llama.attention.causal = False"),
        (lambda w: w.add_expert_count(8), "llama.expert_count = 8"),
        (lambda w: w.add_sliding_window(16), "llama.attention.sliding_window = 16"),
        (lambda w: w.add_uint32("llama.a.key.of.tomorrow", 1), "llama.a.key.of.tomorrow = 1"),
    ],
)
def test_a_key_that_could_change_what_is_computed_is_named(tmp_path, llama, write, named):
    (cause,) = causes_of(write_gguf(llama, tmp_path / "m.gguf", "llama", write))
    assert named in cause


def test_keys_that_change_nothing_are_let_through(tmp_path, llama):
    def write(writer):
        writer.add_expert_count(0)
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_finetuned(True)
        writer.add_author("somebody")
        writer.add_string("quantize.imatrix.file", "imatrix.dat")

    assert dims_of(write_gguf(llama, tmp_path / "m.gguf", "llama", write)).head_dim == 16


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.7.attn_q.weight", "extra.weight"])
def test_a_tensor_that_would_be_dropped_is_named(tmp_path, llama, name):
    tensors = {name: np.ones(64, np.float32)}
    (cause,) = causes_of(write_gguf(llama, tmp_path / "m.gguf", "llama", tensors=tensors))
    assert name in cause


def test_a_key_that_is_missing_is_named(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert any("llama.attention.layer_norm_rms_epsilon" in cause for cause in causes_of(path))


@pytest.mark.parametrize("kind", ["adapter", "mmproj"])
def test_a_file_that_is_no_whole_model_is_named(tmp_path, llama, kind):
    (cause,) = causes_of(
        write_gguf(llama, tmp_path / "m.gguf", "llama", lambda w: w.add_type(kind))
    )
    assert f"general.type is {kind}" in cause


def test_a_big_endian_file_is_named(tmp_path, llama):
    path = write_gguf(llama, tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(PairError, match="is big-endian") as caught:
        dims_of(path)
    assert "download" not in caught.value.problems[0].remedy


def test_a_part_of_a_split_file_is_named(tmp_path, llama):
    write_gguf(llama, tmp_path / "m.gguf", "llama", split_max_tensors=12)
    for number in (1, 2):
        (cause,) = causes_of(tmp_path / f"m-0000{number}-of-00002.gguf")
        assert f"part {number} of 2" in cause


def test_a_file_that_names_no_architecture_is_refused(tmp_path, llama):
    path = write_gguf(llama, tmp_path / "m.gguf", "llama")
    path.write_bytes(path.read_bytes().replace(b"general.architecture", b"general.architectura"))
    assert "general.architecture" in causes_of(path)[0]


def test_a_llama_file_that_is_named_mistral_loads(tmp_path, llama):
    path = write_gguf(llama, tmp_path / "m.gguf", "llama", name="mistral")
    assert dims_of(path).architecture == "llama"
    ids = torch.arange(3, 60)[None]
    found, expected = (
        load_model(resolve_model(str(p)))(input_ids=ids).logits for p in (path, llama)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_an_architecture_that_transformers_does_not_read_points_to_safetensors(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "olmo2")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (cause,) = causes_of(path)
    assert "olmo2" in cause
