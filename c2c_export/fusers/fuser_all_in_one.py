"""The published class AllInOneProjector: a Fuser layer whose parts are chosen by options.

Source of the computation: the published code of Fu et al., "Cache-to-Cache", arXiv 2510.03215.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from c2c_export.fusers.fuser import FuserLayer, SectionLimits, join_heads
from c2c_export.fusers.fuser_all_in_one_args import CLASS_NAME, AllInOneArgs, Choice, check_args
from c2c_runtime.bundle.names import KINDS, Kind
from c2c_runtime.errors import Problem

Seen = dict[
    tuple[str, Kind], Tensor
]  # (receiver or projected, kind) -> [batch, heads, tokens, dim]

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class _SwiGlu(nn.Module):
    """silu(gate_proj(x)) * up_proj(x)."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(num_inputs, num_outputs)
        self.up_proj = nn.Linear(num_inputs, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)
        return y


class _Mlp(nn.Module):
    """Linear layers with norm and activation between them; ``use_residual`` adds the input where
    sizes allow. A place is kept for each dropout, which numbers the weights as published."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        hidden_dim: int,
        *,
        num_layers: int = 2,
        activation: str = "gelu",
        use_layer_norm: bool = True,
        use_residual: bool = False,
        use_swiglu: bool = False,
        has_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.adds_input = use_residual and num_inputs == num_outputs
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layer_class = _SwiGlu if use_swiglu else nn.Linear
            layers.append(layer_class(num_inputs, hidden_dim))
            if use_layer_norm:
                layers.append(nn.LayerNorm(hidden_dim))
            if not use_swiglu:
                layers.append(_ACTIVATIONS[activation]())
            if has_dropout:
                layers.append(nn.Identity())
            num_inputs = hidden_dim
        layers.append(nn.Linear(num_inputs, num_outputs))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return y + x if self.adds_input else y


class AllInOneFuserLayer(FuserLayer):
    """The published class AllInOneProjector, for keys and values:

    projected = combiner([projection(Sharer's), Receiver's]), or projection(Sharer's) alone, then
    fused = own + gate * weight * projected, with weight = sigmoid(w / scalar_temperature)

    where own is (1 - weight) * Receiver's, Receiver's as it is, or nothing. The gate (0 or 1, one for
    keys and values) and w (one for each) are parameters, or come from a small network over the
    caches, as finely as the options say. The term with the gate and the sum are float32, and the sum
    is rounded once; everything before has the layer's dtype.
    """

    published_name: ClassVar[str] = CLASS_NAME

    def __init__(self, args: AllInOneArgs) -> None:
        super().__init__()
        self.args = args
        self.shape = args.shape
        self._is_open = False
        num_outputs = self.shape.num_outputs
        for kind in KINDS:
            projection = _Mlp(
                self.shape.num_inputs - num_outputs,
                num_outputs,
                args.hidden_dim,
                num_layers=args.num_layers,
                activation=args.activation.lower(),
                use_layer_norm=args.use_layer_norm,
                use_residual=args.use_residual,
                use_swiglu=args.use_swiglu,
                has_dropout=args.dropout > 0,
            )
            self.add_module(f"{kind}_projection", projection)
            if args.use_concat:
                self.add_module(f"{kind}_combiner", nn.Linear(2 * num_outputs, num_outputs))
        self._add_gate(args.gate)
        self._add_weights(args.weight)
        # Steers the gates in training. Unused here, but part of every published state dict.
        self.register_buffer("gate_temperature", torch.ones(()))

    def _add_gate(self, gate: Choice) -> None:
        if gate.from_input:
            sizes = gate.num_inputs(self.shape), gate.num_outputs(self.shape)
            self.gate_generator = _Mlp(*sizes, self.args.hidden_dim)
        else:
            self.gate_logit = self._parameter(gate)

    def _add_weights(self, weight: Choice) -> None:
        hidden_dim = self.args.weight_hidden_dim
        if weight.from_input:
            self.weight_hidden = _Mlp(weight.num_inputs(self.shape), hidden_dim, hidden_dim)
        for kind in KINDS:
            if weight.from_input:
                head = nn.Linear(hidden_dim, weight.num_outputs(self.shape))
                self.add_module(f"{kind}_weight_head", head)
            else:
                self.register_parameter(f"{kind}_weight", self._parameter(weight))

    def _parameter(self, choice: Choice) -> nn.Parameter:
        shape = choice.parameter_shape(self.shape, self.args.max_sequence_length)
        return nn.Parameter(torch.zeros(shape))

    @classmethod
    def check_init_args(cls, init_args: Mapping[str, object]) -> list[Problem]:
        """Missing, unknown or impossible arguments, and options that have no computation."""
        return check_args(init_args)

    @classmethod
    def from_init_args(cls, init_args: Mapping[str, object]) -> AllInOneFuserLayer:
        """A layer of the sizes and options that ``init_args`` name."""
        return cls(AllInOneArgs.of(init_args))

    def read_gates(self) -> None:
        """Keys and values share their gate, and even a closed one may scale the Receiver's own."""
        self._is_open = self.args.gate.from_input or bool((self.gate_logit > 0).any())
        keeps_receiver = self.args.add_self and not self.args.preserve_target_weight
        self.writes = frozenset(KINDS if self._is_open or not keeps_receiver else ())

    @property
    def facts(self) -> Hashable:
        """The options, and whether the gate is open."""
        return super().facts, self.args, self._is_open

    @property
    def section_limits(self) -> SectionLimits:
        """Parameters that count from a section's first token, and averages over its tokens."""
        whole = None
        choices = {"gate": self.args.gate, "weight": self.args.weight}
        for what, choice in choices.items():
            if choice.is_per_place or choice.is_average:
                how = "with" if choice.from_input else "without"
                whole = f"{what}_granularity {choice.granularity} {how} {what}_depends_on_input"
        per_place = any(choice.is_per_place for choice in choices.values())
        return SectionLimits(whole, self.args.max_sequence_length if per_place else None)

    def forward(
        self,
        sharer_key: Tensor | None,
        sharer_value: Tensor | None,
        receiver_key: Tensor | None,
        receiver_value: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Fused key and value. Either may depend on both of both models."""
        if not self.writes:
            return receiver_key, receiver_value
        assert sharer_key is not None
        assert sharer_value is not None
        assert receiver_key is not None
        assert receiver_value is not None
        sharer: dict[Kind, Tensor] = {"key": sharer_key, "value": sharer_value}
        seen: Seen = {("receiver", "key"): receiver_key, ("receiver", "value"): receiver_value}
        for kind in KINDS:
            seen["projected", kind] = self._project(kind, sharer[kind], seen["receiver", kind])
        gate = self._gate(seen) if self._is_open else None
        hidden = self._weight_features(seen)
        return (
            self._fuse("key", seen, gate, hidden),
            self._fuse("value", seen, gate, hidden),
        )

    def _project(self, kind: Kind, sharer: Tensor, receiver: Tensor) -> Tensor:
        """[batch, heads, tokens, head_dim] of each side -> the shape of the Receiver's."""
        projected: Tensor = self.get_submodule(f"{kind}_projection")(join_heads(sharer))
        if self.args.use_concat:
            both = torch.cat([projected, join_heads(receiver)], dim=-1)
            projected = self.get_submodule(f"{kind}_combiner")(both)
        heads = (self.shape.receiver_heads, self.shape.receiver_dim)
        return projected.unflatten(-1, heads).transpose(1, 2)

    def _gate(self, seen: Seen) -> Tensor:
        """0 or 1, float32, to be broadcast to [batch, heads, tokens, head_dim]."""
        gate = self.args.gate
        if gate.from_input:
            logits = _per_head(self.gate_generator(_features(gate, seen)), gate)
        else:
            logits = _first_places(self.gate_logit, seen)
        return (logits > 0).float()

    def _weight_features(self, seen: Seen) -> Tensor | None:
        """What the heads of input-dependent weights read; None where weights are parameters."""
        weight = self.args.weight
        if not weight.from_input:
            return None
        hidden: Tensor = self.weight_hidden(_features(weight, seen))
        return hidden

    def _fuse(self, kind: Kind, seen: Seen, gate: Tensor | None, hidden: Tensor | None) -> Tensor:
        args = self.args
        if hidden is not None:
            logits = _per_head(self.get_submodule(f"{kind}_weight_head")(hidden), args.weight)
        else:
            logits = _first_places(getattr(self, f"{kind}_weight"), seen)
        weight = torch.sigmoid(logits / args.scalar_temperature)
        receiver = seen["receiver", kind]
        own = torch.zeros_like(receiver)
        if args.add_self:
            own = (1 - weight) * receiver if args.preserve_target_weight else receiver
        if gate is None:
            return own
        change = gate * weight.float() * seen["projected", kind].float()
        return (own.float() + change).to(receiver.dtype)


def _features(choice: Choice, seen: Seen) -> Tensor:
    """What the network behind a gate or weight reads: [batch, features] averaged over heads and
    tokens, [batch, tokens, heads * features], or [batch, heads, tokens, features]."""
    features = torch.cat([seen[source] for source in choice.features], dim=-1)
    if choice.granularity == "scalar":
        return features.mean(dim=(1, 2))
    merges_heads = choice.granularity in ("token", "head_merged")
    return join_heads(features) if merges_heads else features


def _per_head(output: Tensor, choice: Choice) -> Tensor:
    """A network's output, to be broadcast to [batch, heads, tokens, head_dim]."""
    if choice.granularity == "scalar":  # [batch, 1]
        return output[:, :, None, None]
    if choice.granularity in ("token", "head_merged"):  # [batch, tokens, 1 or heads]
        return output.transpose(1, 2).unsqueeze(-1)
    return output


def _first_places(parameter: Tensor, seen: Seen) -> Tensor:
    """A parameter [], [max_len], [max_len, heads] or [max_len, heads, head_dim] as a section's tokens
    meet it, to be broadcast to [batch, heads, tokens, head_dim].

    Gathered and not sliced, so that a section longer than the parameter fails.
    """
    if parameter.ndim == 0:
        return parameter.view(1, 1, 1, 1)
    num_tokens = seen["receiver", "key"].shape[2]
    places = torch.arange(num_tokens, device=parameter.device)
    used = parameter.index_select(0, places)
    used = used.view(num_tokens, *parameter.shape[1:], *(1,) * (3 - parameter.ndim))
    return used.transpose(0, 1).unsqueeze(0)
