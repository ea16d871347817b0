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

from c2c_export.export_fuser import export_fuser
from c2c_export.fuser_all_in_one import AllInOneFuserLayer
from c2c_runtime import names
from c2c_runtime.errors import UsageError
from c2c_runtime.manifest import LayerLink, ModelDims, Pair, SharerLink
from c2c_runtime.ort_backend import OrtGraph
from c2c_runtime.session import Session

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


@pytest.mark.parametrize("name", CASES)
def test_fused_caches_equal_the_reference(name):
    layer, caches, *expected = layer_and_caches(name)
    for found, wanted in zip(layer(*caches), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["recipe_swiglu", "weight_input_value", "gate_parameter_head"])
def test_the_exported_graph_equals_the_reference(name, tmp_path):
    layer, caches, *expected = layer_and_caches(name)
    args = CASES[name]
    sharer = ModelDims("llama", 1, args["source_num_heads"], args["source_dim"], 9, None, None, "float32")  # fmt: skip
    receiver = ModelDims("llama", 1, args["target_num_heads"], args["target_dim"], 9, None, None, "float32")  # fmt: skip
    link = SharerLink(sharer, (LayerLink(0, 0, True, True),), 1, "none")
    assert export_fuser(Pair("p", receiver, (link,)), [{0: layer}], tmp_path) is not None
    buffers = {}
    for side, cache in zip(SIDES, caches, strict=True):
        batch, heads, tokens, dim = cache.shape
        buffers[side] = np.full((batch, heads, 12, dim), np.nan, np.float32)
        first = 4 if side.startswith("receiver") else 2
        buffers[side][:, :, first : first + tokens] = cache.numpy()
    inputs = {names.SLOTS: np.arange(4, 9), names.sharer_slots(1): np.arange(2, 7)}
    for kind in names.KINDS:
        inputs[names.sharer_cache(1, 0, kind)] = buffers[f"sharer_{kind}"]
        inputs[names.past(0, kind)] = buffers[f"receiver_{kind}"]
    outputs = {names.present(0, kind): buffers[f"receiver_{kind}"] for kind in names.KINDS}
    OrtGraph(tmp_path / "fuser.onnx", 1).bind(inputs, outputs).run()
    for kind, wanted in zip(names.KINDS, expected, strict=True):
        found = buffers[f"receiver_{kind}"]
        np.testing.assert_allclose(found[:, :, 4:9], wanted.numpy(), rtol=0, atol=1e-5)
        assert np.isnan(found[:, :, :4]).all()
        assert np.isnan(found[:, :, 9:]).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gate_granularity": "token", "gate_depends_on_input": True}, "gate_granularity token"),
        ({"gate_granularity": "head_merged"}, "gate_granularity head_merged"),
        ({"weight_granularity": "head_merged"}, "weight_granularity head_merged"),
        ({"activation": "tanh"}, "activation"),
        ({"weight_input_features": "everything", "weight_depends_on_input": True}, "weight_input_features"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_what_the_reference_cannot_run_is_refused_by_name(options, named):
    problems = AllInOneFuserLayer.check_init_args(CASES["defaults"] | options)
    wrong = [problem for problem in problems if named in problem.cause]
    assert wrong, problems
    assert wrong[0].remedy


def test_a_closed_gate_changes_nothing_unless_the_receiver_is_scaled():
    layer, caches, *_ = layer_and_caches("recipe")
    layer.load_state_dict(layer.state_dict() | {"gate_logit": torch.tensor(0.0)})
    assert layer.writes == frozenset()
    assert torch.equal(layer(*caches)[0], caches[2])
    scaled, *_ = layer_and_caches("defaults")  # preserve_target_weight: (1 - weight) * Receiver's
    scaled.load_state_dict(scaled.state_dict() | {"gate_logit": torch.tensor(0.0)})
    assert scaled.writes == {"key", "value"}


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
