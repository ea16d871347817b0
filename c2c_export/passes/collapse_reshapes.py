"""Pass: reshapes that lead back to where they began are dropped."""

from __future__ import annotations

import onnx_ir as ir


class CollapseReshapes(ir.passes.InPlacePass):
    """Rule: in a chain of Reshapes, a result of the same shape as the chain's source is the source.

    Heads are split off before attention and joined again by its operator's own shape. Shapes are those
    of the trace, dimension by dimension, so this runs before they are dropped. Post: dead Reshapes
    remain; ``RemoveUnusedNodesPass`` takes them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any Reshape lost its readers."""
        outputs = set(model.graph.outputs)
        modified = False
        for node in model.graph:
            if node.op_type != "Reshape" or node.outputs[0] in outputs:
                continue
            source = node.inputs[0]
            while source is not None and not _same_shape(source, node.outputs[0]):
                producer = source.producer()
                is_reshape = producer is not None and producer.op_type == "Reshape"
                source = producer.inputs[0] if producer is not None and is_reshape else None
            if source is not None:
                node.outputs[0].replace_all_uses_with(source)
                modified = True
        return ir.passes.PassResult(model, modified)


def _same_shape(first: ir.Value, second: ir.Value) -> bool:
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return False
    return all(
        a == b and a != ir.SymbolicDim(None) for a, b in zip(first.shape, second.shape, strict=True)
    )
