"""Ids are tokenizer.json's, whatever class a checkpoint names."""

from __future__ import annotations

import json

import pytest
import tokenizers
from small_tokenizers import TEXTS, byte_fallback, byte_level, exported, unigram

from c2c_export.reading.tokenizers import read_tokenizer

CASES = {
    "Llama without a space prefix, as Yi": (
        "llama",
        lambda: byte_fallback(False),
        "LlamaTokenizer",
    ),
    "Llama with a space prefix": ("llama", byte_fallback, "LlamaTokenizer"),
    "a byte-level file of Llama's class": ("qwen2", byte_level, "LlamaTokenizerFast"),
    "a byte-level file of Gemma's class": ("gemma3_text", byte_level, "GemmaTokenizer"),
    "a class that nobody knows": ("llama", byte_level, "OurOwnTokenizer"),
    "a file of no class": ("llama", unigram, None),
    "the usual": ("qwen2", byte_level, "PreTrainedTokenizerFast"),
}


@pytest.fixture(params=CASES)
def checkpoint(request, tmp_path):
    model_type, tokenizer, class_name = CASES[request.param]
    tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": model_type}))
    path = tmp_path / "m" / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    fields.pop("tokenizer_class")
    path.write_text(json.dumps(fields | ({"tokenizer_class": class_name} if class_name else {})))
    return tmp_path / "m"


def test_ids_and_texts_are_the_files(checkpoint, tmp_path):
    file = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ours = exported(read_tokenizer(checkpoint).tokenizer, tmp_path / "bundle")
    for text in TEXTS:
        ids = file.encode(text).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == file.decode(ids)


def test_special_tokens_stay(checkpoint):
    fields = json.loads((checkpoint / "tokenizer_config.json").read_text())
    read = read_tokenizer(checkpoint).tokenizer
    for role in ("bos_token", "eos_token", "unk_token"):
        assert getattr(read, role) == fields[role]


def with_class(directory, class_name):
    byte_fallback(False).save_pretrained(directory)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    path = directory / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"tokenizer_class": class_name}
    path.write_text(json.dumps(fields))
    return read_tokenizer(directory).note


def test_a_class_that_gives_other_ids_is_named(tmp_path):
    note = with_class(tmp_path, "LlamaTokenizer")
    assert "LlamaTokenizer" in note
    assert "tokenizer.json" in note


def test_nothing_is_said_where_the_class_agrees(tmp_path):
    assert with_class(tmp_path, "PreTrainedTokenizerFast") is None
