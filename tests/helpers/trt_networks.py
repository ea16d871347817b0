"""What TensorRT's parser makes of a graph. No engine is built and no GPU is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest


def parsed_layers(path: Path) -> Counter[str]:
    """How many layers of each type the strongly typed network of the graph at ``path`` has."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx, to parse a graph")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(path)), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    return Counter(network.get_layer(i).type.name for i in range(network.num_layers))
