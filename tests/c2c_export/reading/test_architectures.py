"""Which models are let in, and that every refusal says why."""

from __future__ import annotations

import pytest
from tiny_models import ARCHITECTURE_CONFIGS, LLAMA3_ROPE, tiny_config
from transformers import AutoConfig

from c2c_export.reading.architectures import ARCHITECTURES, UNSUPPORTED, check_architecture


def the_problem(config):
    problems = check_architecture(config)
    assert len(problems) == 1, problems
    assert problems[0].remedy
    return problems[0]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_supported_architectures_pass(architecture):
    assert architecture in ARCHITECTURE_CONFIGS
    assert check_architecture(tiny_config(architecture)) == []


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("mixtral", "mixture of experts"),
        ("qwen2_moe", "mixture of experts"),
        ("qwen3_moe", "mixture of experts"),
        ("gpt_oss", "sinks"),
        ("mamba", "state-space"),
        ("jamba", "state-space"),
        ("deepseek_v2", "latent"),
        ("deepseek_v3", "latent"),
        ("llama4_text", "chunked"),
        ("gemma2", "soft-capped"),
        ("gemma3n_text", "share the KV caches"),
        ("gemma4_text", "differing head sizes"),
        ("gpt2", "has not been checked"),
    ],
)
def test_unsupported_architectures_are_refused_by_name(architecture, reason):
    problem = the_problem(AutoConfig.for_model(architecture))
    assert architecture in problem.cause
    assert reason in problem.cause
    assert "qwen3" in problem.remedy


def test_no_architecture_is_both_supported_and_not():
    assert not set(ARCHITECTURES) & set(UNSUPPORTED)


def test_a_multimodal_wrapper_names_its_language_model():
    problem = the_problem(AutoConfig.for_model("gemma3"))
    assert "multimodal wrapper" in problem.cause
    assert "gemma3_text" in problem.cause
    assert "language_model" in problem.remedy


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rope_tables_that_depend_on_the_length_are_refused(rope_type):
    config = tiny_config("llama")
    config.rope_parameters = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 2.0}
    problem = the_problem(config)
    assert f"rope type {rope_type}, whose rotary table depends on the length" in problem.cause
    assert "llama3" in problem.remedy


def test_rope_types_of_each_kind_of_layer_are_looked_at():
    config = tiny_config("gemma3_text")
    config.rope_parameters["full_attention"]["rope_type"] = "dynamic"
    assert "rope type dynamic, whose rotary table depends" in the_problem(config).cause


def test_an_unknown_rope_type_is_refused():
    config = tiny_config("llama")
    config.rope_parameters = {"rope_type": "wat", "rope_theta": 10000.0}
    assert "rope type wat is unknown" in the_problem(config).cause


def test_fixed_rope_scaling_passes():
    assert check_architecture(tiny_config("llama", rope_parameters=LLAMA3_ROPE)) == []
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    assert check_architecture(tiny_config("qwen2", rope_parameters=yarn)) == []


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"attn_logit_softcapping": 50.0}, "soft-capped"),
        ({"use_bidirectional_attention": True}, "bidirectional"),
        ({"layer_types": ["full_attention"] * 6 + ["chunked_attention"]}, "chunked_attention"),
    ],
)
def test_attention_features_are_refused(fields, cause):
    config = tiny_config("gemma3_text")
    for name, value in fields.items():
        setattr(config, name, value)
    assert cause in the_problem(config).cause


def test_quantised_checkpoints_are_refused():
    config = tiny_config("llama")
    config.quantization_config = {"quant_method": "awq", "bits": 4}
    problem = the_problem(config)
    assert "quantised (awq)" in problem.cause
    assert "--precision" in problem.remedy


def test_every_problem_is_found_at_once():
    config = tiny_config("gemma3_text")
    config.attn_logit_softcapping = 50.0
    config.rope_parameters["sliding_attention"]["rope_type"] = "longrope"
    assert len(check_architecture(config)) == 2


@pytest.mark.parametrize(
    ("architecture", "fields", "window"),
    [
        ("llama", {}, None),
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 16}, None),  # use_sliding_window is off
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}, 16),
        ("qwen3", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3}, None),
        ("qwen3", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}, 16),
        ("gemma3_text", {"sliding_window": 16, "layers": 2}, 16),
        ("gemma3_text", {"sliding_window": 16, "sliding_window_pattern": 1}, None),
    ],
)
def test_a_window_is_stated_only_where_a_layer_has_one(architecture, fields, window):
    config = tiny_config(architecture, **fields)
    assert ARCHITECTURES[architecture].sliding_window(config) == window


@pytest.mark.parametrize(
    ("architecture", "field", "value"),
    [
        ("qwen2", "is_causal", False),
        ("llama", "is_causal", False),
        ("llama", "bidirectional", True),
        ("qwen3", "is_bidirectional", True),
        ("gemma3_text", "use_bidirectional_attention", True),
    ],
)
def test_a_model_that_sees_later_tokens_is_refused(architecture, field, value):
    """A causal graph of it would be another model."""
    problem = the_problem(tiny_config(architecture, **{field: value}))
    assert "bidirectional" in problem.cause
    assert field in problem.cause


def test_a_model_that_says_it_is_causal_passes():
    assert check_architecture(tiny_config("qwen2", is_causal=True)) == []
