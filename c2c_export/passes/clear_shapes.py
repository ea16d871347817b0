"""Pass: shapes of values inside the graph are dropped."""

from __future__ import annotations

import onnx_ir as ir


class ClearIntermediateShapes(ir.passes.InPlacePass):
    """Rule: a value that is neither input, output nor initializer keeps its type and loses its shape.

    Shapes inside a graph are advisory, and those of the trace are stated in the symbols of the
    example; backends infer their own. Post: graph inputs and outputs are untouched.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any shape was dropped."""
        outputs = set(model.graph.outputs)
        modified = False
        for node in model.graph.all_nodes():
            for value in node.outputs:
                if value not in outputs and value.shape is not None:
                    value.shape = None
                    modified = True
        return ir.passes.PassResult(model, modified)
