"""Pass: what the tracer noted about its own source files is dropped."""

from __future__ import annotations

import onnx_ir as ir


class ClearTraces(ir.passes.InPlacePass):
    """Rule: metadata and doc strings of the model, its nodes and values are emptied.

    The tracer writes stack traces with paths of the build machine into them: they would make two
    builds of the same inputs differ and tell strangers where the builder keeps files.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was dropped."""
        holders: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, model.graph]
        holders += [*model.graph.inputs, *model.graph.initializers.values()]
        for node in model.graph.all_nodes():
            holders += [node, *node.outputs]
        modified = False
        for holder in holders:
            if holder.metadata_props or getattr(holder, "doc_string", None):
                holder.metadata_props.clear()
                holder.doc_string = None
                modified = True
        return ir.passes.PassResult(model, modified)
