"""Graph rewrites, one a file. Each states its rule and says whether it changed anything.

``apply_passes`` is the order in which they run. A pass of a library is used where there is one.
"""

from __future__ import annotations

import copy

import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    IdentityEliminationPass,
    InlinePass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    cast_cast_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    reshape_reshape_rule,
    transpose_transpose_rule,
    unsqueeze_unsqueeze_rule,
)

from c2c_export.passes.clear_shapes import ClearIntermediateShapes
from c2c_export.passes.collapse_reshapes import CollapseReshapes
from c2c_export.passes.constant_reshapes import ConstantReshapes
from c2c_export.passes.pack_attention import PackAttention
from c2c_export.passes.pack_products import PackProducts
from c2c_export.passes.share_weights import ShareWeights
from c2c_export.passes.skip_norms import SkipNorms
from c2c_export.passes.transpose_weights import TransposeWeights
from c2c_runtime.bundle.manifest import Dialect

# Of the rewriter's rules those that match what tracing leaves; all of them take twice the trace's time.
_RULES = (
    cast_cast_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    reshape_reshape_rule,
    transpose_transpose_rule,
    unsqueeze_unsqueeze_rule,
)


def apply_passes(model: ir.Model, dialect: Dialect) -> None:
    """Rewrite a traced ``model`` in place into the graph that is saved."""
    # TensorRT fuses by itself.
    fusions = (PackProducts(), PackAttention(), SkipNorms()) if dialect == "ort" else ()
    rules = copy.deepcopy(_RULES)  # a rule keeps the last graph it saw, and so a model's weights
    InlinePass()(model)
    fold_constants_ir(model, onnx_shape_inference=True)
    ir.passes.Sequential(
        RewritePass(rules),
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        # Before transposing: a table that two layers share must be seen to have two readers.
        ShareWeights(),
        TransposeWeights(),
        CollapseReshapes(),
        ConstantReshapes(),
        RemoveUnusedNodesPass(),
        *fusions,
        RemoveUnusedNodesPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedFunctionsPass(),
        RemoveUnusedOpsetsPass(),
        ClearIntermediateShapes(),
        # The tracer notes its stack, with paths of this machine: no two builds would be equal.
        ClearMetadataAndDocStringPass(),
    )(model)
