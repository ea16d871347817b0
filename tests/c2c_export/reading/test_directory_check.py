"""What in a directory says that its weights are not the model that is meant."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.errors import PairError

ADAPTER = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}


@pytest.fixture
def adapted(tmp_path):
    path = tiny_model(tmp_path / "m", "llama", layers=1)
    (path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return path


def problem_of(path):
    source = resolve_model(str(path))
    with pytest.raises(PairError) as caught:
        read_config(source)
    (problem,) = caught.value.problems
    return problem


def test_an_adapter_beside_a_model_is_not_left_out_without_a_word(adapted):
    problem = problem_of(adapted)
    assert "adapter" in problem.cause
    assert "merge" in problem.remedy
    assert "remove adapter_config.json" in problem.remedy


def test_an_adapter_alone_is_named(adapted):
    for name in ("config.json", "model.safetensors"):
        (adapted / name).unlink()
    problem = problem_of(adapted)
    assert "not a whole model" in problem.cause
    assert "merge" in problem.remedy


@pytest.mark.parametrize("names", [("qweight", "scales"), ("weight_packed", "weight_scale")])
def test_quantised_weights_without_a_word_in_the_config_are_named(tmp_path, names):
    path = tiny_model(tmp_path / "m", "llama", layers=1)
    weights = {}
    for name, weight in load_file(path / "model.safetensors").items():
        if "proj" in name:
            stem = name.removesuffix("weight")
            weights[stem + names[0]] = torch.zeros(4, 4, dtype=torch.int32)
            weights[stem + names[1]] = torch.ones(1, 4)
        else:
            weights[name] = weight
    save_file(weights, path / "model.safetensors")
    source = resolve_model(str(path))
    config = read_config(source)
    with pytest.raises(PairError, match="quantised") as caught:
        model_dims(config, source)
    assert "unquantised" in caught.value.problems[0].remedy
