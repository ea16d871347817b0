"""Norms and rotary embedding become operators only where these compute the same."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_models import tiny_config
from torch import nn
from transformers import AutoModelForCausalLM

from c2c_export.lowering.convert_weights import convert_weights
from c2c_export.lowering.operators import Float32Norm, fuse_norms, fused_rotary
from c2c_runtime.errors import PairError

ARCHITECTURES = ("llama", "gemma3_text", "phi3", "olmo2", "granite")


def made(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(architecture, layers=2)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(0.3 * torch.randn(weight.shape))
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_with_operators_computes_the_same(architecture):
    model = made(architecture)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        num_norms = sum(type(m).__name__.endswith("RMSNorm") for m in model.modules())
        fuse_norms(model)
        assert sum(isinstance(m, Float32Norm) for m in model.modules()) == num_norms > 0
        with fused_rotary(model):
            found = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_norms_keep_their_scale_in_float32_when_weights_are_converted():
    model = made("gemma3_text")
    scale = 1.0 + model.model.norm.weight.detach().clone()
    rotary = model.model.rotary_emb
    frequencies = {name: buffer.clone() for name, buffer in rotary.named_buffers()}
    assert frequencies
    fuse_norms(model)
    convert_weights(model, torch.float16)
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
    torch.testing.assert_close(model.model.norm.norm.weight, scale, rtol=0, atol=0)
    for name, buffer in rotary.named_buffers():
        torch.testing.assert_close(buffer, frequencies[name], rtol=0, atol=0)
    x = torch.randn(2, 48).half()
    assert model.model.norm(x).dtype == torch.float16


class _CenteredRMSNorm(nn.Module):
    """Named like an RMS norm, and none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, (48,), self.weight, eps=self.eps)


def test_a_norm_that_computes_something_else_is_left_alone():
    model = made("llama")
    other = _CenteredRMSNorm()
    model.model.norm = other
    fuse_norms(model)
    assert model.model.norm is other
    assert isinstance(model.model.layers[0].input_layernorm, Float32Norm)


def test_a_rotary_function_that_computes_something_else_is_left_alone(monkeypatch):
    model = made("llama")
    modeling = sys.modules[type(model).__module__]

    def interleaved(query, key, cos, sin, unsqueeze_dim=1):
        def rotate(x):
            pairs = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
            return x * cos[:, None] + pairs * sin[:, None]

        return rotate(query), rotate(key)

    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", interleaved)
    with fused_rotary(model):
        assert modeling.apply_rotary_pos_emb is interleaved


def test_the_rotary_function_comes_back_even_after_an_error():
    model = made("llama")
    modeling = sys.modules[type(model).__module__]
    original = modeling.apply_rotary_pos_emb

    def failing() -> None:
        with fused_rotary(model):
            assert modeling.apply_rotary_pos_emb is not original
            raise RuntimeError("the trace failed")

    with pytest.raises(RuntimeError, match="the trace failed"):
        failing()
    assert modeling.apply_rotary_pos_emb is original


def test_a_weight_too_large_for_fp16_is_named():
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.bias[0] = 1e6
    with pytest.raises(PairError, match=r"weight bias reaches 1e\+06.*\n?.*bf16"):
        convert_weights(module, torch.float16)
