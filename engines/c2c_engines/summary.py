"""What a network holds before it is built: KV updates, attentions, the types of its weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from c2c_runtime.bundle.element_types import ELEMENT_BITS

# Layers that hand a tensor on as it is: what a cast behind them casts is what went into them.
_SAME_VALUES = {"SHUFFLE", "IDENTITY", "UNSQUEEZE", "SQUEEZE", "CAST"}
# Element types in TensorRT's words, and in ours.
_ELEMENT_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
    "INT4": "int4",
}
# Between a product and the constant that its weight is stored as.
_OF_A_WEIGHT = _SAME_VALUES | {"DEQUANTIZE"}


@dataclass(frozen=True)
class KVUpdate:
    """A layer that writes new keys or values into a cache, in place. Names of its tensors."""

    layer: str
    past: str
    present: str


@dataclass(frozen=True)
class Attention:
    """A fused attention. ``may_decompose``: the build may replace it by products and a softmax."""

    name: str
    may_decompose: bool


@dataclass(frozen=True)
class ProductWeight:
    """A constant matrix of a product: the type it is stored in (HALF, INT4, ...) and its shape."""

    layer: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class NetworkSummary:
    """A parsed network in numbers and names. Types are TensorRT's words: FLOAT, HALF, BF16, ..."""

    inputs: dict[str, str]  # name -> type
    outputs: dict[str, str]
    layer_counts: dict[str, int]
    kv_updates: tuple[KVUpdate, ...]
    attentions: tuple[Attention, ...]
    product_weights: tuple[ProductWeight, ...]
    constant_bytes: dict[str, int]  # of everything constant, by type
    cache_casts: tuple[str, ...]  # names of layers that cast a whole cache to another type

    @property
    def num_kv_updates(self) -> int:
        """Layers that write a cache in place: two a layer with a cache."""
        return len(self.kv_updates)

    @property
    def num_attentions(self) -> int:
        """Fused attentions: one a layer whose output anything needs."""
        return len(self.attentions)

    @property
    def num_rotary(self) -> int:
        """Rotary embeddings: two a layer."""
        return self.layer_counts.get("ROTARY_EMBEDDING", 0)

    def weight_elements(self) -> dict[str, int]:
        """Numbers in the constant matrices of all products, by stored type."""
        counts: Counter[str] = Counter()
        for weight in self.product_weights:
            counts[weight.dtype] += weight.num_elements
        return dict(counts)


def summarize(network: Any, trt: Any) -> NetworkSummary:
    """Read a network. The network stays as it is."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    inputs = {t.name: t for t in (network.get_input(i) for i in range(network.num_inputs))}
    outputs = {t.name: t for t in (network.get_output(i) for i in range(network.num_outputs))}
    return NetworkSummary(
        inputs={name: tensor.dtype.name for name, tensor in inputs.items()},
        outputs={name: tensor.dtype.name for name, tensor in outputs.items()},
        layer_counts=dict(Counter(layer.type.name for layer in layers)),
        kv_updates=tuple(
            KVUpdate(layer.name, layer.get_input(0).name, layer.get_output(0).name)
            for layer in layers
            if layer.type.name == "KV_CACHE_UPDATE"
        ),
        attentions=tuple(_attentions(layers, trt)),
        product_weights=tuple(_product_weights(layers, makers)),
        constant_bytes=_constant_bytes(layers),
        cache_casts=tuple(_cache_casts(layers, makers, set(inputs), set(outputs))),
    )


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _inputs(layer: Any) -> list[Any]:
    found = (layer.get_input(index) for index in range(layer.num_inputs))
    return [tensor for tensor in found if tensor is not None]


def _attentions(layers: list[Any], trt: Any) -> Iterator[Attention]:
    """One for each pair of boundary layers; they, and not the attention, are in the layer list."""
    for layer in layers:
        if layer.type.name == "ATTENTION_OUTPUT":
            attention = _as_attention_output(layer, trt).attention
            yield Attention(attention.name, bool(attention.decomposable))


def _as_attention_output(layer: Any, trt: Any) -> Any:
    """The layer with the properties of its own kind, of which the network's list hands out the base.

    TensorRT's Python API has no cast. To set the class is what NVIDIA's own Polygraphy does to print a
    network, and changes nothing but what Python shows of the layer.
    """
    layer.__class__ = trt.IAttentionOutputLayer
    return layer


def _product_weights(layers: list[Any], makers: dict[str, Any]) -> Iterator[ProductWeight]:
    for layer in layers:
        if layer.type.name != "MATRIX_MULTIPLY":
            continue
        for tensor in _inputs(layer):
            maker = makers.get(tensor.name)
            while maker is not None and maker.type.name in _OF_A_WEIGHT:
                tensor = maker.get_input(0)
                maker = makers.get(tensor.name)
            if maker is not None and maker.type.name == "CONSTANT" and _is_matrix(tensor):
                yield ProductWeight(layer.name, tensor.dtype.name, tuple(tensor.shape))


def _constant_bytes(layers: list[Any]) -> dict[str, int]:
    bits: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name == "CONSTANT":
            tensor = layer.get_output(0)
            bits[tensor.dtype.name] += math.prod(tensor.shape) * _bits(tensor.dtype.name)
    return {name: count // 8 for name, count in bits.items()}


def _bits(trt_type: str) -> int:
    """Of one element; 32 for a type that no constant of ours has."""
    return ELEMENT_BITS.get(_ELEMENT_TYPES.get(trt_type, ""), 32)


def _is_matrix(tensor: Any) -> bool:
    return len([dim for dim in tensor.shape if dim > 1]) >= 2


def _cache_casts(
    layers: list[Any], makers: dict[str, Any], inputs: set[str], outputs: set[str]
) -> Iterator[str]:
    """Casts whose input is a whole cache as it came in, or whose output is one as it goes out."""
    caches_in = {name for name in inputs if name.endswith((".key", ".value"))}
    caches_out = {name for name in outputs if name.endswith((".key", ".value"))}
    for layer in layers:
        if layer.type.name == "KV_CACHE_UPDATE":
            caches_in.add(layer.get_output(0).name)
    for layer in layers:
        if layer.type.name != "CAST":
            continue
        source, target = layer.get_input(0), layer.get_output(0)
        if source.dtype == target.dtype:
            continue
        origin = source.name
        while (maker := makers.get(origin)) is not None and maker.type.name in _SAME_VALUES:
            origin = maker.get_input(0).name
        if origin in caches_in or target.name in caches_out:
            yield layer.name
