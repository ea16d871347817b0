"""C2CFuserLayer against what the published reference computed."""

from __future__ import annotations

import json

import pytest
import torch
from paths import GOLDEN
from safetensors.torch import load_file

from c2c_export.fusers.fuser import C2CFuserLayer
from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.fusers.fuser_classes import FUSER_CLASSES
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_runtime.bundle.names import KINDS

FP32_CASES = sorted(
    path.parent.name
    for path in GOLDEN.glob("*/case.json")
    if json.loads(path.read_text())["dtype"] == "float32"
)
SHAPE = FuserShape(sharer_heads=2, sharer_dim=3, receiver_heads=4, receiver_dim=5)


def sections_of(case):
    """(start, end) of every fused section."""
    start, fused = 0, []
    for length, mask in case["sections"]:
        if mask >= 0:
            fused.append((start, start + length))
        start += length
    return fused


@pytest.mark.parametrize(
    "name", [name for name in FP32_CASES if (GOLDEN / name / "fuser").is_dir()]
)
def test_fused_caches_equal_the_reference(name):
    folder = GOLDEN / name
    case = json.loads((folder / "case.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    checkpoint = read_fuser(folder / "fuser")
    layers = checkpoint.load_layers()
    compared = 0
    # After the first fused section the stored receiver.* is no longer what the chain held.
    start, end = sections_of(case)[0]
    for layer, (sharer_layer, _) in checkpoint.links.items():
        clean = [expected[f"receiver.{layer}.{kind}"][:, :, start:end] for kind in KINDS]
        sharer = [expected[f"sharer1.{sharer_layer}.{kind}"][:, :, start:end] for kind in KINDS]
        for kind, fused in zip(KINDS, layers[layer](*sharer, *clean), strict=True):
            wanted = expected[f"fused.{layer}.{kind}"][:, :, start:end]
            # The stored clean cache of layer 1 and up comes from unfused keys, as the chain's does:
            # attention within the first fused section sees no fused token.
            torch.testing.assert_close(fused, wanted, atol=1e-4, rtol=0)
            compared += 1
    assert compared == 2 * len(layers) > 0


def bf16_tensors():
    folder = GOLDEN / "bf16"
    return read_fuser(folder / "fuser"), load_file(folder / "expected.safetensors")


def test_bf16_arithmetic_is_bit_for_bit_the_reference():
    checkpoint, expected = bf16_tensors()
    for layer, module in checkpoint.load_layers().items():
        sharer_layer, _ = checkpoint.links[layer]
        inputs = [
            expected[f"{side}.{kind}"].bfloat16()
            for side in (f"sharer1.{sharer_layer}", f"receiver.{layer}")
            for kind in KINDS
        ]
        for kind, fused in zip(KINDS, module.bfloat16()(*inputs), strict=True):
            assert fused.dtype == torch.bfloat16
            assert torch.equal(fused.float(), expected[f"fused.{layer}.{kind}"])


def test_fp32_arithmetic_from_bf16_weights_stays_close():
    checkpoint, expected = bf16_tensors()
    for layer, module in checkpoint.load_layers().items():
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        sharer_layer, _ = checkpoint.links[layer]
        sharer = [expected[f"sharer1.{sharer_layer}.{kind}"] for kind in KINDS]
        clean = [expected[f"receiver.{layer}.{kind}"] for kind in KINDS]
        for kind, fused in zip(KINDS, module(*sharer, *clean), strict=True):
            wanted = expected[f"fused.{layer}.{kind}"]
            assert (fused - wanted).abs().max() < 0.01 * wanted.abs().max()
            assert torch.cosine_similarity(fused.flatten(), wanted.flatten(), dim=0) > 0.9999


def random_layer(key_logit: float, value_logit: float, num_layers: int = 3) -> C2CFuserLayer:
    torch.manual_seed(0)
    layer = C2CFuserLayer(SHAPE, hidden_dim=6, intermediate_dim=7, num_layers=num_layers)
    weights = layer.state_dict()
    weights["key_gate_logit"] = torch.tensor(key_logit)
    weights["value_gate_logit"] = torch.tensor(value_logit)
    layer.load_state_dict(weights)
    return layer.eval().requires_grad_(False)


def caches(tokens: int = 5, batch: int = 2):
    generator = torch.Generator().manual_seed(1)
    sharer = [torch.randn(batch, 2, tokens, 3, generator=generator) for _ in KINDS]
    receiver = [torch.randn(batch, 4, tokens, 5, generator=generator) for _ in KINDS]
    return sharer, receiver


@pytest.mark.parametrize(
    ("logit", "is_open"), [(1.0, True), (1e-6, True), (0.0, False), (-1.0, False)]
)
def test_gates_are_booleans_read_from_the_logits(logit, is_open):
    layer = random_layer(logit, 1.0)
    assert layer.key_gate is is_open
    assert layer.value_gate is True
    assert random_layer(1.0, logit).value_gate is is_open


def test_a_layer_without_weights_is_closed():
    layer = C2CFuserLayer(SHAPE, hidden_dim=6, intermediate_dim=7)
    assert (layer.key_gate, layer.value_gate) == (False, False)


def test_a_closed_gate_gives_back_the_receivers_cache_untouched():
    sharer, receiver = caches()
    key, value = random_layer(0.0, 1.0)(*sharer, *receiver)
    assert key is receiver[0]
    assert not torch.equal(value, receiver[1])


def test_a_closed_gate_computes_nothing_even_with_broken_weights():
    layer = random_layer(0.0, 0.0)
    for parameter in layer.parameters():
        parameter.fill_(float("nan"))
    sharer, receiver = caches()
    key, value = layer(*sharer, *receiver)
    assert key.isfinite().all()
    assert value.isfinite().all()


def test_keys_and_values_do_not_read_each_other():
    layer = random_layer(1.0, 1.0)
    sharer, receiver = caches()
    key, value = layer(*sharer, *receiver)
    assert torch.equal(key, layer(*sharer, receiver[0], torch.zeros_like(receiver[1]))[0])
    assert torch.equal(value, layer(*sharer, torch.zeros_like(receiver[0]), receiver[1])[1])


def test_each_token_is_fused_on_its_own():
    layer = random_layer(1.0, 1.0)
    sharer, receiver = caches()
    whole = layer(*sharer, *receiver)[0]
    one = layer(*(cache[:, :, 3:4] for cache in (*sharer, *receiver)))[0]
    torch.testing.assert_close(whole[:, :, 3:4], one)


def test_num_layers_adds_blocks_to_the_projection():
    names = set(random_layer(1, 1, num_layers=5).state_dict())
    assert {f"key_proj_mlp2.blocks.{i}.w1.weight" for i in range(3)} <= names
    assert "key_proj_mlp2.blocks.3.w1.weight" not in names


def test_the_layer_exports_with_open_branches_only():
    import onnx  # noqa: F401 -- the exporter needs it

    layer = random_layer(0.0, 1.0)
    sharer, receiver = caches()
    program = torch.export.export(layer, (*sharer, *receiver))
    used = {
        spec.target
        for spec in program.graph_signature.input_specs
        if spec.target and any(node.users for node in program.graph.nodes if node.name == spec.arg.name)
    }  # fmt: skip
    assert any(name.startswith("value_proj_out") for name in used)
    assert not any(name.startswith("key_") for name in used)


@pytest.mark.parametrize(
    ("init_args", "cause"),
    [
        ({"target_dim": 4}, "lack source_dim"),
        ({"source_dim": 4, "target_dim": 4, "num_layers": 2}, "num_layers is 2"),
        ({"source_dim": 4, "target_dim": 4, "num_layers": 0}, "num_layers is 0"),
        ({"source_dim": "4", "target_dim": 4}, "source_dim is '4'"),
        ({"source_dim": 4, "target_dim": True}, "target_dim is True"),
        ({"source_dim": 4, "target_dim": 4, "use_swiglu": True}, "use_swiglu"),
    ],
)
def test_wrong_init_args_are_named_with_a_remedy(init_args, cause):
    problems = C2CFuserLayer.check_init_args(init_args)
    assert len(problems) == 1
    assert cause in problems[0].cause
    assert problems[0].remedy


def test_init_args_default_as_published():
    with torch.device("meta"):
        layer = C2CFuserLayer.from_init_args({"source_dim": 64, "target_dim": 128, "dropout": 0.1})
    assert layer.shape == FuserShape(1, 64, 1, 128)
    shapes = {name: tuple(weight.shape) for name, weight in layer.state_dict().items()}
    assert shapes["key_in.weight"] == (1024, 192)
    assert shapes["key_mlp1.blocks.0.w1.weight"] == (1024, 1024)


def test_the_registry_is_keyed_by_lower_case_names():
    assert FUSER_CLASSES["c2cprojector"] is C2CFuserLayer
