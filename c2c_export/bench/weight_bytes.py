"""How many bytes of weights a bundle's graphs hold, and how many of them a decode step reads."""

from __future__ import annotations

import math
from typing import Any

from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle

# They read single rows of a table, not all of it.
_ROW_READERS = frozenset({"Gather", "GatherBlockQuantized"})


def weight_bytes(bundle: Bundle) -> dict[str, int]:
    """Bytes of the files of each graph, by role; graphs that share a file count it once each."""
    return {graph.role: bundle.graph_bytes(graph.role) for graph in bundle.manifest.graphs}


def step_bytes(bundle: Bundle) -> int | None:
    """Bytes of weights that one Receiver step reads: all but tables of which it takes single rows.
    None where onnx is not installed."""
    try:
        import onnx
    except ImportError:
        return None
    path = bundle.path_of(bundle.graph(names.RECEIVER).path)
    graph = onnx.load(str(path), load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            rows = node.op_type in _ROW_READERS and (
                place == 0 or node.op_type == "GatherBlockQuantized"
            )
            readers.setdefault(name, set()).add("rows" if rows else "all")
    sizes: dict[object, int] = {}
    for tensor in graph.initializer:
        if readers.get(tensor.name, set()) != {"rows"}:
            # Two initializers may be one place of the file: a table that is tied.
            where = {entry.key: entry.value for entry in tensor.external_data}
            key = (where.get("location"), where.get("offset")) if where else tensor.name
            sizes[key] = math.prod(tensor.dims) * _bits(onnx, tensor.data_type) // 8
    return sum(sizes.values())


def _bits(onnx: Any, data_type: int) -> int:
    if data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 4
    bits: int = onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8
    return bits
