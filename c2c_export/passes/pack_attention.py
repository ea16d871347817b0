"""Pass: GroupQueryAttention reads queries, keys and values as one packed product gives them."""

from __future__ import annotations

import onnx_ir as ir


class PackAttention(ir.passes.InPlacePass):
    """Rule: GroupQueryAttention(q, k, v) with q, k, v = Split(x) in that order reads x itself.

    Nothing may come between: models that normalise queries and keys keep their Split. Pre:
    ``PackProducts`` and ``CollapseReshapes``.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether any Split was removed."""
        graph = model.graph
        modified = False
        for node in list(graph):
            if node.op_type != "GroupQueryAttention":
                continue
            split = node.inputs[0].producer() if node.inputs[0] is not None else None
            if split is None or split.op_type != "Split":
                continue
            outputs = tuple(split.outputs)
            if tuple(node.inputs[:3]) != outputs or any(len(out.uses()) > 1 for out in outputs):
                continue
            node.replace_input_with(0, split.inputs[0])
            node.replace_input_with(1, None)
            node.replace_input_with(2, None)
            graph.remove(split, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)
