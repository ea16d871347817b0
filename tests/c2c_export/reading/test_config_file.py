"""Configs as people bring them: read as they are meant, or refused by field and file."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import tiny_model

from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.end_of_turn import eos_ids
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.errors import PairError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("whole") / "m", "llama", layers=1)


@pytest.fixture
def edited(whole, tmp_path):
    def edit(fields, file="config.json"):
        for path in whole.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        path = tmp_path / file
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | fields))
        return resolve_model(str(tmp_path))

    return edit


def loaded(source):
    config = read_config(source)
    model_dims(config, source)
    eos_ids(source, config)
    return load_model(source)


@pytest.mark.parametrize(
    "fields",
    [
        {"pad_token_id": 256},
        {"pad_token_id": -1},
        {"return_dict": False},
        {"dtype": "auto"},
        {"dtype": "torch.bfloat16"},
        {"torch_dtype": "half precision"},
        {"quantization_config": {}},
        {"layer_types": ["full_attention"]},
        {"output_attentions": True, "output_hidden_states": True},
        {"id2label": 5, "num_labels": "two"},
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
    ],
    ids=str,
)
def test_what_does_not_change_the_model_is_read_past(whole, edited, fields):
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        found = loaded(edited(fields))(input_ids=ids).logits
        expected = load_model(resolve_model(str(whole)))(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"eos_token_id": "</s>"},
        {"num_hidden_layers": None},
        {"num_key_value_heads": 0},
        {"vocab_size": 0},
        {"head_dim": 0},
        {"hidden_act": "nope"},
        {"layer_types": ["sliding_attention"]},
        {"pad_token_id": "<pad>"},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_by_its_name(edited, fields):
    source = edited(fields)
    with pytest.raises(PairError) as caught:
        loaded(source)
    (problem,) = caught.value.problems
    assert str(source.directory) in str(caught.value)
    assert next(iter(fields)) in problem.cause + problem.remedy
    assert problem.remedy


def test_a_rotary_setting_that_is_a_text_is_named(edited):
    source = edited({"rope_scaling": {"rope_type": "linear", "factor": "4"}})
    with pytest.raises(PairError, match="factor is '4'"):
        loaded(source)


@pytest.mark.parametrize("id", ["<|im_end|>", [2, "<|im_end|>"], 2.5, True], ids=str)
def test_an_end_of_turn_that_is_no_id_is_named_with_its_file(edited, id):
    source = edited({"eos_token_id": id}, "generation_config.json")
    with pytest.raises(PairError, match=r"eos_token_id of .*generation_config\.json"):
        eos_ids(source, read_config(source))


@pytest.mark.parametrize("fields", [{"num_attention_heads": 0}, {"layer_types": 5}], ids=str)
def test_whatever_else_a_config_says_is_the_configs_fault(edited, fields):
    source = edited(fields)
    with pytest.raises(PairError) as caught:
        loaded(source)
    assert caught.value.exit_code == 3
    assert str(source.directory) in str(caught.value)
