"""ONNX file -> TensorRT network, with the parser's errors as problems that name the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from c2c_engines.library import TensorRTLibrary
from c2c_engines.messages import Messages
from c2c_runtime.errors import BundleError, Problem

_REMEDY = "build the bundle again with `c2c-export build` of this version, or use a newer TensorRT"


def parse_network(
    library: TensorRTLibrary, builder: Any, logger: Any, messages: Messages, path: Path
) -> tuple[Any, Any]:
    """The network of the graph at ``path`` and its parser, which owns the weights: keep both.

    Weights outside the file are read from beside it. Raises ``BundleError`` with every node that the
    parser refuses.
    """
    if not path.is_file():
        raise BundleError.of(f"the graph {path} is missing", _REMEDY)
    network = library.create_network(builder)
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        problems = [Problem(_describe(error), _remedy(error, path)) for error in errors]
        if not problems:
            problems = [Problem("the parser gives no reason" + messages.tail(), _REMEDY)]
        raise BundleError(f"{library} cannot read the graph {path.name}:", problems)
    return network, parser


def _describe(error: Any) -> str:
    name, operator = error.node_name(), error.node_operator()
    node = f"node {name} ({operator})" if name else f"{operator or 'node'} {error.node()}"
    return f"{node}: {error.desc()}"


def _remedy(error: Any, path: Path) -> str:
    if "Failed to import initializer" in error.desc():
        return f"check that the files of its weights are there and whole, as {path.name}.data"
    return _REMEDY
