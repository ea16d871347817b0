"""Capturing norms and rotary embedding: what stock models compute in several steps as one operator.

Nothing is taken on trust: a norm or a rotary function is replaced only where a probe shows that the
operator computes the same; all others are traced as they are written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Rotary = Callable[..., tuple[Tensor, Tensor]]

ROTARY = "apply_rotary_pos_emb"  # the name under which every modeling module of transformers looks
_PROBE_HEAD_DIM = 8


class Float32Norm(nn.Module):
    """A norm that computes in float32 and gives x's dtype back. Its weights are no parameters, so
    that they stay in float32 when those are converted."""

    def __init__(self, norm: nn.RMSNorm | nn.LayerNorm) -> None:
        super().__init__()
        for name, weight in list(norm.named_parameters(recurse=False)):
            delattr(norm, name)
            norm.register_buffer(name, weight.detach().float())
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        y: Tensor = self.norm(x.float())
        return y.to(x.dtype)


def fuse_norms(model: nn.Module) -> None:
    """Replace the norms of ``model`` by ``Float32Norm``, in place, with their weights as they are
    now. An RMS norm becomes the operator RMSNormalization, where the opset has it."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            norm = module if type(module) in (nn.RMSNorm, nn.LayerNorm) else _rms_norm(module)
            if norm is not None:
                setattr(parent, name, Float32Norm(norm))


def _rms_norm(module: nn.Module) -> nn.RMSNorm | None:
    """PyTorch's norm that computes what a modeling module's does; its scale may be 1 + weight."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(eps, float):
        return None
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        return None
    probe = _probe(3, weight.shape[0])
    with torch.no_grad():
        expected = module(probe.to(weight.dtype)).float()
        for scale in (weight.detach().float(), 1.0 + weight.detach().float()):
            norm = nn.RMSNorm(len(scale), eps=eps)
            norm.weight.copy_(scale)
            if torch.allclose(norm(probe), expected, rtol=1e-2, atol=1e-3):
                return norm
    return None


@contextmanager
def fused_rotary(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the layers of ``model`` rotate by the operator RotaryEmbedding."""
    modeling = sys.modules[type(model).__module__]
    original: Rotary | None = getattr(modeling, ROTARY, None)
    if original is None or not rotates_halves(original):
        yield
        return
    rotates_part = _agrees(original, _PROBE_HEAD_DIM // 2)

    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if cos.shape[-1] != query.shape[-1] and not rotates_part:
            return original(query, key, cos, sin)
        return _rotate(query, cos, sin), _rotate(key, cos, sin)

    with swapped(modeling, ROTARY, rotate):
        yield


@contextmanager
def swapped(owner: object, name: str, value: object) -> Iterator[None]:
    """While it lasts, ``owner`` has another ``name``."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def rotates_halves(original: Rotary) -> bool:
    """Whether a modeling module's rotary function computes what the operators do."""
    return _agrees(original, _PROBE_HEAD_DIM)


def rotary_operator(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None) -> Tensor:
    """RotaryEmbedding of x [batch, heads, tokens, head_dim]; the first rotary_dim features are rotated.

    Tables [batch, tokens, rotary_dim / 2]; or, with ``positions`` [batch, tokens], a row for every
    position.
    """
    rotary_dim = 2 * cos.shape[-1]
    partial = rotary_dim if rotary_dim != x.shape[-1] else 0
    return torch.onnx.ops.rotary_embedding(x, cos, sin, positions, rotary_embedding_dim=partial)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [batch, heads, tokens, head_dim], tables [batch, tokens, rotary_dim] whose halves are equal.

    The tables come in float32 or in the model's dtype, computed in float32 either way.
    """
    half = cos.shape[-1] // 2
    return rotary_operator(x, *(table[..., :half].to(x.dtype) for table in (cos, sin)))


def _agrees(original: Rotary, rotary_dim: int) -> bool:
    """Whether the operator computes what a modeling module's function does."""
    query, key = _probe(1, 2, 3, _PROBE_HEAD_DIM), _probe(1, 1, 3, _PROBE_HEAD_DIM)
    angles = _probe(1, 3, rotary_dim // 2).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    try:
        expected = original(query, key, cos, sin)
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ):  # it cannot rotate a part, or takes other arguments
        return False
    found = (_rotate(query, cos, sin), _rotate(key, cos, sin))
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def _probe(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
