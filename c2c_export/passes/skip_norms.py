"""Pass: a residual sum and the RMS norm after it become one operator."""

from __future__ import annotations

import copy

import onnx_ir as ir
from onnxscript.rewriter.ort_fusions.skip_normalization import skip_rms_normalization_ruleset


class SkipNorms(ir.passes.InPlacePass):
    """Rule: RMSNormalization(a + b) becomes SkipSimplifiedLayerNormalization(a, b), which gives the sum
    as well; other RMS norms become SimplifiedLayerNormalization, as ONNX Runtime calls its operator.

    The fusion is onnxscript's; it knows the operator under ONNX Runtime's name only. Shapes are those of
    the trace, so this runs before they are dropped.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether the model had any RMS norm."""
        norms = [node for node in model.graph if node.op_type == "RMSNormalization"]
        for node in norms:
            node.op_type = "SimplifiedLayerNormalization"
        # A rule keeps the last graph it saw, and so a model's weights.
        copy.deepcopy(skip_rms_normalization_ruleset).apply_to_model(model)
        for node in model.graph:
            if node.op_type == "SkipSimplifiedLayerNormalization":
                for unread in node.outputs[1:3]:  # mean and deviation
                    unread.name = ""
        return ir.passes.PassResult(model, bool(norms))
