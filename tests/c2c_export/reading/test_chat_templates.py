"""Which of a checkpoint's chat templates is meant."""

from __future__ import annotations

from copy import deepcopy

import pytest
from small_tokenizers import byte_level
from tiny_bundles import source_of
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_pair

from c2c_export.pair.prepare import prepare_pair
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


BROKEN = "{% for m in messages %}\n{{ m.content }\n{% endfor %}"


def test_a_template_that_does_not_parse_is_named_with_its_line(tmp_path):
    with pytest.raises(PairError) as caught:
        load_tokenizer(saved(tmp_path, BROKEN))
    (problem,) = caught.value.problems
    assert f"the chat template of {tmp_path}, line 2" in problem.cause
    assert "mend it" in problem.remedy


def test_a_template_of_a_gguf_that_does_not_parse_is_named(tmp_path):
    with pytest.raises(PairError, match=r"the chat template of .*m\.gguf, line 2"):
        named_gguf(tmp_path, BROKEN)


def test_a_pair_names_every_template_that_does_not_parse(tmp_path):
    sizes = {"layers": 1, "vocab": 424}
    paths = tiny_pair(tmp_path, "llama", "llama", receiver=sizes, sharer=sizes)
    for role in ("receiver", "sharer"):
        saved(paths[role], BROKEN)
    with pytest.raises(PairError) as caught:
        prepare_pair(source_of(paths))
    assert len(caught.value.problems) == 2
