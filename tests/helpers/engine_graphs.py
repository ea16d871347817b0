"""Graphs of the ``tensorrt`` dialect, small enough to become engines within a second or two.

They have the names, shapes and operators of a real Receiver and Fuser, and random weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from c2c_engines.profiles import profiles_for
from c2c_engines.request import EngineRequest
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import MANIFEST_NAME, dump_manifest, sha256_of
from c2c_runtime.bundle.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    GraphSpec,
    LayerLink,
    Limits,
    Manifest,
    ModelDims,
    Pair,
    SharerLink,
    TensorSpec,
)

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
# Weight type by precision: scales are of the compute type, one a column or one a block of 64.
QUANTIZED: dict[str, Any] = {
    "int8": np.int8,
    "int4": ml_dtypes.int4,
    "fp8": ml_dtypes.float8_e4m3fn,
}
BLOCK = 64


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a tiny Receiver. ``dtype`` is of caches and activations."""

    layers: int = 2
    hidden: int = 128
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 320
    intermediate: int = 256
    max_seq_len: int = 64
    dtype: str = "float16"
    weights: str | None = None  # int8, int4, fp8: products' weights through DequantizeLinear


@dataclass
class _Writer:
    """Collects nodes and weights; every method returns the name of what it made."""

    size: ModelSize
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    num_parameters: int = 0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def op(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node.{name}", **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        if all(weight.name != name for weight in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value).astype(dtype), name))
        return name

    def random_weight(self, name: str, *shape: int, dtype: Any = None) -> str:
        values = self.random.standard_normal(shape, np.float32) / shape[0] ** 0.5
        self.num_parameters += values.size
        return self.constant(name, values, dtype or DTYPES[self.size.dtype])

    def product(self, x: str, name: str, rows: int, columns: int) -> str:
        """``x @ name``, the weight quantised where the size says so."""
        if self.size.weights is None:
            return self.op("MatMul", [x, self.random_weight(name, rows, columns)])
        dtype = QUANTIZED[self.size.weights]
        self.num_parameters += rows * columns
        values = self.random.integers(-7, 8, (rows, columns)).astype(np.float32)
        quantized = self.constant(f"{name}.quantized", values, dtype)
        is_blocked = self.size.weights == "int4"
        shape = (rows // BLOCK, columns) if is_blocked else (columns,)
        scale = self.constant(f"{name}.scale", np.full(shape, 0.02), DTYPES[self.size.dtype])
        how = {"axis": 0, "block_size": BLOCK} if is_blocked else {"axis": 1}
        return self.op("MatMul", [x, self.op("DequantizeLinear", [quantized, scale], **how)])


def write_receiver(path: Path, size: ModelSize | None = None, **changes: Any) -> GraphSpec:
    """A Receiver with rotary embedding, grouped heads and a gated MLP, its weights beside it.

    ``changes``: ``scatter=False`` leaves the caches to a plain Where instead of TensorScatter,
    ``attention=False`` writes out softmax(QK)V, ``cast_cache=True`` goes through float32,
    ``unknown_operator=True`` ends in an operator that no parser knows.
    """
    size = size or ModelSize()
    writer = _Writer(size)
    embedding = writer.random_weight("embedding", size.vocab, size.hidden)
    hidden = writer.op("Gather", [embedding, names.TOKEN_IDS])
    mask, tables = _mask(writer), _rotary_tables(writer)
    for layer in range(size.layers):
        hidden = _attention(writer, hidden, layer, mask, tables, changes)
        hidden = _mlp(writer, hidden, layer)
    last = writer.op("Gather", [hidden, writer.constant("minus_one", -1)], axis=1)
    head = writer.op("Transpose", [embedding], perm=[1, 0])
    logits = writer.op("MatMul", [last, head])
    if changes.get("unknown_operator"):
        logits = writer.op("Frobnicate", [logits])
    writer.op("Cast", [logits], names.LOGITS, to=TensorProto.FLOAT)
    outputs = [
        TensorSpec(names.LOGITS, "float32", ("batch", size.vocab)),
        *_caches(size, names.present),
    ]
    return _save(path, writer, names.RECEIVER, _model_inputs(size), outputs)


def write_sharer(path: Path, size: ModelSize | None = None) -> GraphSpec:
    """A Sharer: caches only, so its last layer ends at the projections of keys and values."""
    size = size or ModelSize()
    writer = _Writer(size)
    embedding = writer.random_weight("embedding", size.vocab, size.hidden)
    hidden = writer.op("Gather", [embedding, names.TOKEN_IDS])
    mask, tables = _mask(writer), _rotary_tables(writer)
    for layer in range(size.layers):
        is_last = layer == size.layers - 1
        hidden = _attention(writer, hidden, layer, mask, tables, {"only_caches": is_last})
        hidden = hidden if is_last else _mlp(writer, hidden, layer)
    caches = _caches(size, names.present)
    return _save(path, writer, names.sharer(1), _model_inputs(size), caches)


def write_fuser(path: Path, size: ModelSize | None = None) -> GraphSpec:
    """A Fuser that writes a product of the Sharer's slice into the Receiver's cache."""
    size = size or ModelSize()
    writer = _Writer(size)
    inputs = [
        *_caches(size, names.past),
        *_caches(size, lambda layer, kind: names.sharer_cache(1, layer, kind)),
        TensorSpec(names.SLOTS, "int64", ("tokens",)),
        TensorSpec(names.sharer_slots(1), "int64", ("tokens",)),
    ]
    zero = writer.constant("first", [0])
    first = writer.op("Gather", [names.SLOTS, zero])
    batch = writer.op("Shape", [names.past(0, "key")], start=0, end=1)
    first = writer.op("Expand", [first, batch])
    for layer in range(size.layers):
        for kind in names.KINDS:
            cache = names.sharer_cache(1, layer, kind)
            part = writer.op("Gather", [cache, names.sharer_slots(1)], axis=2)
            weight = writer.random_weight(f"{layer}.{kind}", size.head_dim, size.head_dim)
            fused = writer.op("MatMul", [part, weight])
            present = names.present(layer, kind)
            writer.op("TensorScatter", [names.past(layer, kind), fused, first], present)
    return _save(path, writer, names.FUSER, inputs, _caches(size, names.present))


def write_engineless_bundle(
    root: Path, precision: str = "fp16", size: ModelSize | None = None
) -> Path:
    """A bundle with graphs of the dialect ``tensorrt`` and nothing else: ids in, ids out."""
    size = size or ModelSize()
    folder = root / "graphs" / "tensorrt"
    plain = replace(size, weights=None)
    graphs = (
        write_sharer(folder / "sharer1.onnx", size),
        write_fuser(folder / "fuser.onnx", plain),
        write_receiver(folder / "receiver.onnx", size),
    )
    dims = ModelDims(
        "llama", size.layers, size.kv_heads, size.head_dim, size.vocab, None, None, size.dtype
    )
    links = tuple(LayerLink(layer, layer, True, True) for layer in range(size.layers))
    files = {
        path.relative_to(root).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.iterdir())
    }
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        created_at="2026-01-01T00:00:00+00:00",
        pair=Pair("tiny", dims, (SharerLink(dims, links, size.layers, "none"),)),
        limits=Limits(size.max_seq_len, 32),
        precision=precision,
        graphs=graphs,
        engines=(),
        tokenizers={},
        alignments={},
        eos_ids=(),
        golden=(),
        tools={},
        files=files,
    )
    (root / MANIFEST_NAME).write_bytes(dump_manifest(manifest))
    return root


def _model_inputs(size: ModelSize) -> list[TensorSpec]:
    return [
        TensorSpec(names.TOKEN_IDS, "int64", ("batch", "tokens")),
        TensorSpec(names.POSITIONS, "int64", ("batch", "tokens")),
        TensorSpec(names.PAST_LENGTH, "int64", ("batch",)),
        *_caches(size, names.past),
    ]


def _rotary_tables(writer: _Writer) -> list[str]:
    size = writer.size
    inverse = 1e4 ** -(np.arange(0, size.head_dim, 2) / size.head_dim)
    angles, dtype = np.outer(np.arange(size.max_seq_len), inverse), DTYPES[size.dtype]
    return [
        writer.constant("cos", np.cos(angles), dtype),
        writer.constant("sin", np.sin(angles), dtype),
    ]


def _caches(size: ModelSize, name: Callable[[int, names.Kind], str]) -> list[TensorSpec]:
    shape = ("batch", size.kv_heads, size.max_seq_len, size.head_dim)
    return [
        TensorSpec(name(layer, kind), size.dtype, shape)
        for layer in range(size.layers)
        for kind in names.KINDS
    ]


def _mask(writer: _Writer) -> str:
    """bool [batch, 1, tokens, max_seq_len]: a token sees its own slot and those before it."""
    tokens = writer.op(
        "Squeeze",
        [
            writer.op("Shape", [names.TOKEN_IDS], start=1, end=2),
            writer.constant("axis_0", [0]),
        ],
    )
    steps = writer.op("Range", [writer.constant("zero", 0), tokens, writer.constant("one", 1)])
    past = writer.op("Unsqueeze", [names.PAST_LENGTH, writer.constant("axis_1", [1])])
    slots = writer.op("Add", [past, steps])  # [batch, tokens]
    slots = writer.op("Unsqueeze", [slots, writer.constant("axes_1_3", [1, 3])])
    keys = writer.constant("keys", np.arange(writer.size.max_seq_len))
    return writer.op("LessOrEqual", [keys, slots])


def _attention(
    writer: _Writer, x: str, layer: int, mask: str, tables: list[str], changes: dict[str, Any]
) -> str:
    size = writer.size
    heads = {"q": size.heads, "k": size.kv_heads, "v": size.kv_heads}
    parts = {}
    for name, count in heads.items():
        flat = writer.product(x, f"{layer}.{name}", size.hidden, count * size.head_dim)
        shape = writer.constant(f"shape_{name}", [0, -1, count, size.head_dim])
        split = writer.op("Reshape", [flat, shape])
        split = writer.op("Transpose", [split], perm=[0, 2, 1, 3])
        if name != "v":
            split = writer.op("RotaryEmbedding", [split, *tables, names.POSITIONS])
        parts[name] = split
    present = []
    for kind, name in zip(names.KINDS, "kv", strict=True):
        cache, update = names.past(layer, kind), parts[name]
        output = names.present(layer, kind)
        if changes.get("cast_cache"):
            cache = writer.op("Cast", [cache], to=TensorProto.FLOAT)
            update = writer.op("Cast", [update], to=TensorProto.FLOAT)
            wide = writer.op("TensorScatter", [cache, update, names.PAST_LENGTH])
            present.append(
                writer.op(
                    "Cast",
                    [wide],
                    output,
                    to=helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[size.dtype])),
                )
            )
        elif changes.get("scatter", True):
            present.append(writer.op("TensorScatter", [cache, update, names.PAST_LENGTH], output))
        else:
            last = writer.op("ReduceMean", [update, writer.constant("axis_2", [2])])
            present.append(writer.op("Add", [cache, last], output))
    if changes.get("only_caches"):
        return x
    if changes.get("attention", True):
        mixed = writer.op("Attention", [parts["q"], *present, mask])
    else:
        mixed = _written_out_attention(writer, parts["q"], present, mask)
    mixed = writer.op("Transpose", [mixed], perm=[0, 2, 1, 3])
    mixed = writer.op(
        "Reshape", [mixed, writer.constant("merge", [0, -1, size.heads * size.head_dim])]
    )
    out = writer.product(mixed, f"{layer}.o", size.heads * size.head_dim, size.hidden)
    return writer.op("Add", [x, out])


def _written_out_attention(writer: _Writer, query: str, present: list[str], mask: str) -> str:
    size = writer.size
    axis = writer.constant("repeat_axis", [2])
    groups = size.heads // size.kv_heads
    shape = writer.constant("repeat", [1, 1, groups, 1, 1])
    merged = writer.constant("repeated", [0, size.heads, size.max_seq_len, size.head_dim])
    wide = [
        writer.op(
            "Reshape",
            [writer.op("Expand", [writer.op("Unsqueeze", [cache, axis]), shape]), merged],
        )
        for cache in present
    ]
    keys = writer.op("Transpose", [wide[0]], perm=[0, 1, 3, 2])
    scores = writer.op("MatMul", [query, keys])
    low = writer.constant("low", -1e4, DTYPES[size.dtype])
    weights = writer.op("Softmax", [writer.op("Where", [mask, scores, low])], axis=-1)
    return writer.op("MatMul", [weights, wide[1]])


def _mlp(writer: _Writer, x: str, layer: int) -> str:
    size = writer.size
    gate = writer.product(x, f"{layer}.gate", size.hidden, size.intermediate)
    up = writer.product(x, f"{layer}.up", size.hidden, size.intermediate)
    gated = writer.op("Mul", [writer.op("Mul", [gate, writer.op("Sigmoid", [gate])]), up])
    return writer.op(
        "Add", [x, writer.product(gated, f"{layer}.down", size.intermediate, size.hidden)]
    )


def _save(
    path: Path,
    writer: _Writer,
    role: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
) -> GraphSpec:
    onnx_types = {name: helper.np_dtype_to_tensor_dtype(np.dtype(t)) for name, t in DTYPES.items()}
    onnx_types |= {"int64": TensorProto.INT64, "bool": TensorProto.BOOL}

    def values(specs: list[TensorSpec]) -> list[Any]:
        return [
            helper.make_tensor_value_info(spec.name, onnx_types[spec.dtype], spec.shape)
            for spec in specs
        ]

    graph = helper.make_graph(writer.nodes, role, values(inputs), values(outputs), writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    onnx.save_model(
        model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024
    )
    relative = f"graphs/tensorrt/{path.name}"
    return GraphSpec(
        role, "tensorrt", relative, tuple(inputs), tuple(outputs), writer.num_parameters
    )


requires_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)


def request_of(
    graph: GraphSpec, folder: Path, target: str = "sm89", precision: str = "fp16", **fields: Any
) -> EngineRequest:
    """The request for the engine of a graph that lies in ``folder``, with its role's profiles."""
    limits = Limits(max_seq_len=64, max_prompt_len=32)
    return EngineRequest(
        graph=graph,
        graph_path=str(folder / Path(graph.path).name),
        engine_path=str(folder / f"{graph.role}.engine"),
        backend="tensorrt-rtx",
        target=target,
        precision=precision,
        profiles=fields.pop("profiles", profiles_for(graph, limits)),
        **fields,
    )
