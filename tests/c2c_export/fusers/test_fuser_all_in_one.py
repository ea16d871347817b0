"""Class AllInOneProjector, option by option, against stored results of the published code.

``all_in_one_options.safetensors`` holds, for each combination of options, inputs, weights and what
thu-nics/C2C at commit d03cc7b computed for them (torch 2.13.0, float32, evaluation mode).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from paths import DATA
from safetensors import safe_open
from tiny_bundles import build
from tiny_models import tiny_pair

from c2c_export.fusers.fuser_all_in_one import AllInOneFuserLayer
from c2c_export.graphs.export_fuser import export_fuser
from c2c_runtime.answers.session import Session
from c2c_runtime.backends.ort_backend import OrtGraph
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import LayerLink, ModelDims, Pair, SharerLink
from c2c_runtime.errors import UsageError

FILE = DATA / "all_in_one_options.safetensors"
SIDES = ("sharer_key", "sharer_value", "receiver_key", "receiver_value")
with safe_open(FILE, "pt") as stored:
    CASES = json.loads(stored.metadata()["init_args"])


def layer_and_caches(name: str):
    """The layer with its weights, the four caches, and the fused key and value."""
    with safe_open(FILE, "pt") as file:
        tensors = {
            key.removeprefix(f"{name}/"): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118  not a dict
            if key.startswith(f"{name}/")
        }
    assert AllInOneFuserLayer.check_init_args(CASES[name]) == []
    layer = AllInOneFuserLayer.from_init_args(CASES[name]).eval().requires_grad_(False)
    prefix = "state/"
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    layer.load_state_dict(state, strict=True)
    return layer, [tensors[side] for side in SIDES], tensors["fused_key"], tensors["fused_value"]


FP32_CASES = [name for name in CASES if not name.startswith("bf16")]
BF16_CASES = [name for name in CASES if name.startswith("bf16")]


@pytest.mark.parametrize("name", FP32_CASES)
def test_fused_caches_equal_the_reference(name):
    layer, caches, *expected = layer_and_caches(name)
    for found, wanted in zip(layer(*caches), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", BF16_CASES)
def test_bf16_arithmetic_is_bit_for_bit_the_reference(name):
    layer, caches, *expected = layer_and_caches(name)
    for found, wanted in zip(layer.bfloat16()(*caches), expected, strict=True):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, wanted)


def run_graph(layer, name: str, caches, directory) -> list[np.ndarray]:
    """Export the layer and fuse the caches, each in a buffer of 16 slots, as slots 4 and on of the
    Receiver's and 2 and on of the Sharer's. Returns both of the Receiver's buffers."""
    args = CASES[name]
    sharer = ModelDims("llama", 1, args["source_num_heads"], args["source_dim"], 9, None, None, "float32")  # fmt: skip
    receiver = ModelDims("llama", 1, args["target_num_heads"], args["target_dim"], 9, None, None, "float32")  # fmt: skip
    link = SharerLink(sharer, (LayerLink(0, 0, True, True),), 1, "none")
    assert export_fuser(Pair("p", receiver, (link,)), [{0: layer}], directory) is not None
    buffers = {}
    for side, cache in zip(SIDES, caches, strict=True):
        batch, heads, tokens, dim = cache.shape
        buffers[side] = np.full((batch, heads, 16, dim), np.nan, np.float32)
        first = 4 if side.startswith("receiver") else 2
        buffers[side][:, :, first : first + tokens] = cache.numpy()
    inputs = {
        names.SLOTS: np.arange(4, 4 + tokens),
        names.sharer_slots(1): np.arange(2, 2 + tokens),
    }
    for kind in names.KINDS:
        inputs[names.sharer_cache(1, 0, kind)] = buffers[f"sharer_{kind}"]
        inputs[names.past(0, kind)] = buffers[f"receiver_{kind}"]
    outputs = {names.present(0, kind): buffers[f"receiver_{kind}"] for kind in names.KINDS}
    OrtGraph(directory / "fuser.onnx", 1).bind(inputs, outputs).start()
    return [buffers[f"receiver_{kind}"] for kind in names.KINDS]


@pytest.mark.parametrize(
    "name",
    [
        "recipe_swiglu",
        "weight_input_value",
        "weight_input_token",
        "weight_input_batch",
        "weight_parameter_value",
        "gate_parameter_head",
        "gate_input_head_merged",
        "closed_gate_input_weight",
        "closed_gate_adds_nothing",
    ],
)
def test_the_exported_graph_equals_the_reference(name, tmp_path):
    layer, caches, *expected = layer_and_caches(name)
    for found, wanted in zip(run_graph(layer, name, caches, tmp_path), expected, strict=True):
        np.testing.assert_allclose(found[:, :, 4:9], wanted.numpy(), rtol=0, atol=1e-5)
        assert np.isnan(found[:, :, :4]).all()
        assert np.isnan(found[:, :, 9:]).all()


def test_a_section_longer_than_its_parameters_fails(tmp_path):
    """It must never be fused with parameters that are repeated or left out."""
    name = "weight_parameter_token"
    layer, caches, *_ = layer_and_caches(name)
    too_long = [torch.cat([cache, cache], dim=2) for cache in caches]  # 10 tokens for 9 parameters
    with pytest.raises(IndexError):
        layer(*too_long)
    with pytest.raises(Exception, match="out of data bounds"):
        run_graph(layer, name, too_long, tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gate_granularity": "token", "gate_depends_on_input": True}, "gate_granularity token"),
        ({"gate_granularity": "head_merged"}, "gate_granularity head_merged"),
        ({"weight_granularity": "head_merged"}, "weight_granularity head_merged"),
        ({"activation": "tanh"}, "activation"),
        ({"weight_input_features": "everything", "weight_depends_on_input": True}, "weight_input_features"),
        ({"gate_input_features": None, "gate_depends_on_input": True}, "gate_input_features"),
        ({"gate_granularity": "layer"}, "gate_granularity"),
        ({"weight_granularity": ["head"]}, "weight_granularity"),
        ({"weight_hidden_dim": 0}, "weight_hidden_dim"),
        ({"max_sequence_length": 2.5}, "max_sequence_length"),
        ({"num_layers": True}, "num_layers"),
        ({"use_concat": "yes"}, "use_concat"),
        ({"dropout": 1.5}, "dropout"),
        ({"dropout": None}, "dropout"),
        ({"scalar_temperature": 0}, "scalar_temperature"),
        ({"scalar_temperature": float("nan")}, "scalar_temperature"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_what_the_reference_cannot_run_is_refused_by_name(options, named):
    problems = AllInOneFuserLayer.check_init_args(CASES["defaults"] | options)
    wrong = [problem for problem in problems if named in problem.cause]
    assert wrong, problems
    assert wrong[0].remedy


def test_missing_sizes_are_named():
    causes = [problem.cause for problem in AllInOneFuserLayer.check_init_args({})]
    assert causes == ["init_args lack source_dim", "init_args lack target_dim"]


def test_arguments_of_training_are_taken_and_ignored():
    for_training = {"use_gumbel": False, "initial_temperature": 2.0, "final_temperature": 0.1, "anneal_steps": 9, "gate_init_value": 1.0, "weight_init_value": 1.0}  # fmt: skip
    assert AllInOneFuserLayer.check_init_args(CASES["defaults"] | for_training) == []


def test_a_closed_gate_that_leaves_the_receiver_as_it_is_computes_nothing():
    layer, caches, *_ = layer_and_caches("recipe")
    layer.load_state_dict(layer.state_dict() | {"gate_logit": torch.tensor(0.0)})
    for parameter in layer.parameters():
        parameter.fill_(float("nan"))
    assert layer.writes == frozenset()
    assert not layer.key_gate
    assert layer(*caches) == (caches[2], caches[3])


@pytest.mark.parametrize("name", ["closed_gate_scales", "closed_gate_adds_nothing", "recipe"])
def test_keys_and_values_are_written_where_they_change(name):
    layer, *_ = layer_and_caches(name)
    assert layer.writes == layer.reads == {"key", "value"}


@pytest.mark.parametrize(
    ("name", "whole", "max_len"),
    [
        ("recipe", False, None),
        ("weight_parameter_token", True, 9),
        ("gate_parameter_value", True, 9),
        ("weight_input_scalar", True, None),
        ("weight_input_head_merged", False, None),
    ],
)
def test_what_a_section_must_be_like(name, whole, max_len):
    layer, *_ = layer_and_caches(name)
    assert (layer.section_limits.whole is not None) == whole
    assert layer.section_limits.max_len == max_len


def all_in_one_pair(directory, max_lens, **options):
    """A tiny pair whose layers have this class; ``max_lens``: each one's max_sequence_length."""
    paths = tiny_pair(
        directory, "mistral", receiver={"layers": len(max_lens)}, sharer={"layers": len(max_lens)}
    )
    generator = torch.Generator().manual_seed(5)
    for index, max_len in enumerate(max_lens):
        stem = paths["fuser"] / "final" / f"projector_{index}"
        sizes = json.loads(stem.with_suffix(".json").read_text())["init_args"]
        kept = ("source_dim", "target_dim", "source_num_heads", "target_num_heads")
        args = {name: sizes[name] for name in kept} | options
        args |= {"max_sequence_length": max_len, "hidden_dim": 8, "weight_hidden_dim": 8}
        state = AllInOneFuserLayer.from_init_args(args).state_dict()
        weights = {k: torch.randn(v.shape, generator=generator) for k, v in state.items()}
        torch.save(weights | {"gate_logit": torch.ones(())}, stem.with_suffix(".pt"))
        stem.with_suffix(".json").write_text(
            json.dumps({"class": "AllInOneProjector", "init_args": args})
        )
    return paths


@pytest.mark.parametrize(
    ("options", "max_fused_len"),
    [
        ({"weight_granularity": "token"}, 9),
        ({"weight_granularity": "scalar", "weight_depends_on_input": True}, None),
    ],
)
def test_a_bundle_fuses_whole_sections_of_lengths_there_are_weights_for(
    options, max_fused_len, tmp_path
):
    """Building verifies: fused in chunks of max_prompt_len, its caches would not be eager's."""
    paths = all_in_one_pair(tmp_path / "pair", (12, 9), scalar_temperature=1.0, **options)
    bundle = build(paths, tmp_path / "bundle", max_seq_len=64, max_prompt_len=4)
    with Session.open(bundle) as session:
        manifest = session.bundle.manifest
        link = manifest.pair.sharers[0]
        assert (link.fuses_whole_sections, link.max_fused_len) == (True, max_fused_len)
        assert [case.name for case in manifest.golden] == ["short", "window"]
        fused = [n for case in manifest.golden for n, mask in case.sections if mask == 1]
        assert max(fused) == (max_fused_len or 20)
        ids = list(range(3, 14))
        conversation = session.conversation()
        if max_fused_len is None:
            conversation.prefill(session.sections_of_ids(ids))
            return
        with pytest.raises(UsageError, match="10 tokens; the Fuser of Sharer 1 has weights for 9"):
            conversation.prefill(session.sections_of_ids(ids))
        assert (conversation.receiver.length, conversation.sharers[0].length) == (0, 0)
        conversation.prefill(session.sections_of_ids(ids[:10]))
