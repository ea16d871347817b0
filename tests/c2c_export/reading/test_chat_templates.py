"""Which of a checkpoint's chat templates is meant."""

from __future__ import annotations

from copy import deepcopy

import pytest
from small_tokenizers import byte_level
from tiny_gguf import write_gguf
from tiny_models import tiny_model

from c2c_export.reading.chat_templates import chat_template
from c2c_export.reading.tokenizers import load_tokenizer
from c2c_runtime.errors import PairError

NAMED = {"tool_use": "{{ messages[0].content }} T", "rag": "R"}


def saved(directory, template):
    tokenizer = deepcopy(byte_level())
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return directory


def assert_lists(read):
    with pytest.raises(PairError, match="rag, tool_use") as caught:
        read()
    (problem,) = caught.value.problems
    assert "default" in problem.cause
    assert problem.remedy


def test_named_templates_without_a_default_are_listed(tmp_path):
    assert_lists(lambda: load_tokenizer(saved(tmp_path, NAMED)))


def test_of_named_templates_the_default_is_taken(tmp_path):
    tokenizer = load_tokenizer(saved(tmp_path, NAMED | {"default": "D"}))
    assert chat_template(tokenizer) == "D"


def test_a_checkpoint_without_a_template_has_none(tmp_path):
    assert chat_template(load_tokenizer(saved(tmp_path, None))) is None


def named_gguf(tmp_path, template):
    model = tiny_model(tmp_path / "m", "llama", vocab=424, layers=1)
    path = write_gguf(model, tmp_path / "m.gguf", "llama", lambda w: w.add_chat_template(template))
    return load_tokenizer(path.parent, path.name)


def test_named_templates_of_a_gguf_are_listed(tmp_path):
    templates = [{"name": name, "template": text} for name, text in NAMED.items()]
    assert_lists(lambda: named_gguf(tmp_path, templates))


def test_the_template_of_a_gguf_is_taken(tmp_path):
    assert chat_template(named_gguf(tmp_path, "G")) == "G"
