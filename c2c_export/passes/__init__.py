"""Graph rewrites, one a file. Each states its rule and says whether it changed anything.

``apply_passes`` is the order in which they run. A pass of a library is used where there is one.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from c2c_export.passes.clear_shapes import ClearIntermediateShapes
from c2c_export.passes.clear_traces import ClearTraces


def apply_passes(model: ir.Model) -> bool:
    """Rewrite ``model`` in place. Returns whether anything changed."""
    pipeline = ir.passes.Sequential(
        RemoveUnusedNodesPass(),
        DeduplicateInitializersPass(size_limit=2**62),
        ClearIntermediateShapes(),
        ClearTraces(),
    )
    return pipeline(model).modified
