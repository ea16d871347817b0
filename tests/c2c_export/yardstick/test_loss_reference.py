"""The reference of the loss: what eager computes chunk by chunk is what it computes in one pass."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_tokenizers import byte_level
from tiny_models import tiny_model

from c2c_export.building.build_target import build_target
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import resolve_model
from c2c_export.yardstick.loss_reference import loss_reference, num_loss_tokens, plan_loss
from c2c_runtime.bundle.manifest import Limits

LIMITS = Limits(2048, 1024)
DIMS = SimpleNamespace(vocab_size=256)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3_text"])  # one has windows of 16
def test_chunks_are_one_pass(tmp_path, architecture):
    path = tiny_model(tmp_path, architecture, vocab=2000)
    model = load_model(resolve_model(str(path)))
    ids = np.random.default_rng(0).integers(0, 2000, 150)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0]
    found = loss_reference(model, ids.tolist(), 2000)
    assert found.top_ids.shape == found.top_logits.shape == (150, 64)
    assert found.sampled_logits.shape == (150, 1024)
    np.testing.assert_array_equal(found.token_ids, ids)
    np.testing.assert_allclose(found.log_sum_exp, logits.logsumexp(1), atol=1e-4)
    following = logits[torch.arange(149), torch.from_numpy(ids[1:])]
    np.testing.assert_allclose(found.next_logits, following, atol=1e-3)
    np.testing.assert_allclose(found.sampled_logits, logits[:, found.sampled_ids], atol=1e-3)
    largest = logits.topk(64).values
    np.testing.assert_allclose(found.top_logits, largest, atol=1e-3)
    assert (found.best_ids == logits.argmax(1).numpy()).mean() > 0.98  # but for near ties


@pytest.mark.parametrize(
    ("num_parameters", "dialect", "num_tokens"),
    [
        (135e6, "ort", 512),
        (600e6, "ort", 256),
        (1.7e9, "ort", 64),
        (70e9, "ort", 32),
        (135e6, "tensorrt", 256),
    ],
)
def test_slow_steps_are_fewer(num_parameters, dialect, num_tokens):
    assert num_loss_tokens(int(num_parameters), LIMITS, dialect) == num_tokens
    assert num_loss_tokens(int(num_parameters), Limits(20, 16), dialect) == 20


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_tokens_are_prose_where_there_is_a_tokenizer(has_tokenizer):
    tokenizer = byte_level() if has_tokenizer else None
    prepared = SimpleNamespace(
        limits=LIMITS,
        tokenizers={"receiver": tokenizer} if has_tokenizer else {},
        pair=SimpleNamespace(receiver=DIMS),
    )
    planned = plan_loss(prepared, 1000, "int8", "ort")
    assert planned.is_prose == has_tokenizer
    assert len(planned.token_ids) == 512
    if has_tokenizer:
        assert "The ferry to the island" in tokenizer.decode(planned.token_ids)
    else:
        assert max(planned.token_ids) < 256


@pytest.mark.parametrize(
    ("precision", "is_measured"),
    [("fp32", False), ("receiver=fp32,sharer=int8", False), ("receiver=int4", True)],
)
def test_only_few_bits_of_the_receiver_are_measured(precision, is_measured):
    prepared = SimpleNamespace(limits=LIMITS, tokenizers={}, pair=SimpleNamespace(receiver=DIMS))
    weights = build_target("ort", precision=precision).precision.of("receiver").weights
    planned = plan_loss(prepared, 1000, weights, "ort")
    assert (planned is not None) == is_measured
