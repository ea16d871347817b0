"""Layers are of one kind only if nothing but their weights differs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import ARCHITECTURE_CONFIGS, tiny_config
from torch import nn
from transformers import AutoModelForCausalLM

from c2c_export.graphs.layer_kinds import layer_kinds

CONFIG = SimpleNamespace()


class Layer(nn.Module):
    def __init__(self, number, **facts):
        super().__init__()
        self.layer_idx = number
        self.product = nn.Linear(3, 3)
        self.function = torch.relu
        self.rates = {"scale": (1.0, None)}
        for name, value in facts.items():
            setattr(self, name, value)


def test_a_number_and_weights_make_no_kind():
    assert layer_kinds([Layer(0), Layer(1), Layer(2)], CONFIG, None) == [0, 0, 0]


@pytest.mark.parametrize(
    "facts",
    [
        {"scale": 2.0},
        {"rates": {"scale": (1.0, 2.0)}},
        {"function": torch.sigmoid},
        {"product": nn.Linear(3, 3, bias=False)},
        {"product": nn.Linear(3, 4)},
        {"product": nn.Linear(3, 3).half()},
        {"norm": nn.RMSNorm(3)},
        {"table": torch.ones(3)},
        {"unknown": object()},
        {"forward": lambda x: x},
    ],
)
def test_whatever_else_differs_makes_another(facts):
    layers = [Layer(0), Layer(1, **facts), Layer(2), Layer(3, **facts)]
    kinds = layer_kinds(layers, CONFIG, None)
    assert kinds[:3] == [0, 1, 0]
    assert kinds[3] != 0


def test_what_a_config_says_of_each_layer_makes_another():
    layers = [Layer(number) for number in range(4)]
    assert layer_kinds(layers, SimpleNamespace(types=["a", "b", "b", "a"]), None) == [0, 1, 1, 0]


def test_a_layer_of_which_only_keys_and_values_are_needed_is_another():
    assert layer_kinds([Layer(number) for number in range(3)], CONFIG, 2) == [0, 0, 2]


def test_layers_that_share_a_weight_are_not_of_the_kind_of_those_that_do_not():
    layers = [Layer(number) for number in range(4)]
    layers[3].product.weight = layers[1].product.weight
    assert layer_kinds(layers, CONFIG, None) == [0, 1, 0, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURE_CONFIGS)
def test_windows_and_rotary_embeddings_make_the_kinds_of_models(architecture):
    expected = {
        "gemma3_text": [0, 0, 0, 0, 0, 5, 0],  # one of six sees all
        "smollm3": [0, 1, 0, 1, 0, 1, 0],  # one of two without rotary embedding
    }
    model = AutoModelForCausalLM.from_config(tiny_config(architecture, layers=7))
    assert layer_kinds(model.model.layers, model.config, None) == expected.get(
        architecture, [0] * 7
    )
