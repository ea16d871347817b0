"""Public bug reports of people doing this job, and the test that keeps each kind of fault away.

What concerns parts that do not exist yet (engines, quantised weights, serving) is not listed.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
EXPORT = "c2c_export/graphs/test_export.py"

REPORTS = {
    "huggingface/optimum#2379: head_dim from the projection": (EXPORT, "test_names_and_shapes_follow_the_contract"),
    "huggingface/optimum-onnx#97, optimum#1399: num_key_value_heads": (EXPORT, "test_names_and_shapes_follow_the_contract"),
    "huggingface/optimum#2436, onnxruntime/mobius#274: head sizes that differ": ("c2c_export/reading/test_checkpoints.py", "test_layers_with_differing_head_sizes"),
    "onnxruntime-genai#2277: Gemma 3 past its window": (EXPORT, "test_a_prefill_into_an_empty_dirty_cache"),
    "LMCache#242: llama3 rope scaling past the original context": (EXPORT, "test_a_prefill_into_an_empty_dirty_cache"),
    "optimum#877, unsloth#3699: rows of a batch": ("c2c_runtime/answers/test_batch.py", "test_every_row_equals_its_single_run"),
    "the same, in the graph itself": (EXPORT, "test_rows_of_different_lengths_equal_their_single_runs"),
    "pytorch#151582, #140011: a traced size of 1": (EXPORT, "test_a_batch_of_any_size_after_tracing_with_two"),
    "onnxruntime#29020: one query over a longer past": (EXPORT, "test_decode_steps_to_the_last_slot"),
    "onnxruntime#26311, #28768: bf16 checkpoints on CPU": ("test_golden.py", "test_a_bf16_checkpoint_becomes_an_fp32_bundle"),
    "optimum#1326, #2241: a tied LM head stored twice": (EXPORT, "test_every_weight_is_stored_once_as_external_data"),
    "Qwen3#910, transformers#33317: large q and k biases": (EXPORT, "test_large_biases_stay_finite"),
    "onnxruntime#29719, onnxruntime-genai#1604: dirty buffers, several tokens appended": (EXPORT, "test_tokens_appended_to_a_cache_that_is_not_empty"),
    "onnx-tensorrt#818, sentence-transformers#3438: external weights that are lost": ("test_damaged_bundle.py", "test_a_missing_file"),
    "the same: external weights that do not travel": ("c2c_export/graphs/test_graph_contents.py", "test_weights_lie_beside_their_graph_and_are_hashed"),
    "onnxruntime-genai#552, #954: long prompts": ("c2c_export/graphs/test_graph_contents.py", "test_a_prompt_in_chunks_is_the_prompt_and_the_longest_fills_the_cache"),
    "onnxruntime-genai#415, vllm#10515: KV in and KV out": ("c2c_runtime/chain/test_kv_cache.py", "test_a_conversation_goes_on_from_a_cache_that_was_carried_over"),
    "onnxruntime-genai#991: a tokenizer file of a newer library": ("c2c_runtime/text/test_tokenizer.py", "test_a_file_of_a_newer_library_names_both_versions"),
    "template padding, tokens that a template trims": ("test_chats.py", "test_a_chat_equals_the_masked_eager_pass"),
    "EOS ids of config and generation_config": ("c2c_export/reading/test_checkpoints.py", "test_eos_ids_are_all_of_both_files"),
}  # fmt: skip


@pytest.mark.parametrize("report", REPORTS)
def test_the_test_of_a_report_exists(report):
    file, name = REPORTS[report]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
