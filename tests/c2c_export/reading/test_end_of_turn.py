"""Every place where a checkpoint says how a turn ends."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from small_tokenizers import byte_level
from tiny_bundles import source_of
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_pair

from c2c_export.pair.prepare import prepare_pair
from c2c_export.reading.checkpoints import read_config
from c2c_export.reading.end_of_turn import eos_ids
from c2c_export.reading.model_source import resolve_model


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda w: w.add_eot_token_id(7), (2, 7)),
        (lambda w: w.add_eom_token_id(8), (2, 8)),
        (lambda w: w.add_array("tokenizer.ggml.eos_token_ids", [2, 9]), (2, 9)),
        (lambda w: None, (2,)),
    ],
)
def test_a_gguf_ends_turns_by_every_key_that_says_so(tmp_path, write, expected):
    model = tiny_model(tmp_path / "m", "llama", vocab=424, layers=1)
    source = resolve_model(str(write_gguf(model, tmp_path / "m.gguf", "llama", write)))
    assert eos_ids(source, read_config(source)) == expected


def test_a_pair_stops_at_the_tokenizers_eos_too(tmp_path):
    sizes = {"layers": 1, "vocab": 424}
    paths = tiny_pair(tmp_path, "llama", "llama", receiver=sizes, sharer=sizes)
    for role in ("receiver", "sharer"):
        tokenizer = deepcopy(byte_level())
        tokenizer.eos_token = "<|im_start|>"
        tokenizer.save_pretrained(paths[role])
    path = paths["receiver"] / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert prepare_pair(source_of(paths)).eos_ids == (2, 5, 1)
