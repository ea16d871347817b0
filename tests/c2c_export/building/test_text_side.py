"""Tokenizers that come into a bundle, and what is said where one is missing."""

from __future__ import annotations

import pytest
from small_tokenizers import byte_level
from tiny_bundles import source_of
from tiny_models import tiny_pair

from c2c_export.building.text_side import golden_text_ids, write_text_side
from c2c_export.pair.prepare import prepare_pair
from c2c_runtime.bundle import names

NUM_IDS = max(byte_level().get_vocab().values()) + 1


def prepared(directory, *with_tokenizer):
    sizes = {"layers": 1, "vocab": NUM_IDS}
    paths = tiny_pair(directory, "llama", "llama", receiver=sizes, sharer=sizes)
    for role in with_tokenizer:
        byte_level().save_pretrained(paths[role])
    return prepare_pair(source_of(paths))


def test_the_receivers_tokenizer_is_kept_where_the_sharer_has_none(tmp_path):
    pair = prepared(tmp_path / "pair", "receiver")
    side = write_text_side(pair, tmp_path)
    assert list(side.tokenizers) == [names.RECEIVER]
    assert (tmp_path / "tokenizers" / "receiver" / "tokenizer.json").is_file()
    assert side.tables == (None,)
    assert golden_text_ids(pair)
    (note,) = pair.notes
    assert "Sharer 1 has no tokenizer" in note
    assert "chats are not" in note


@pytest.mark.parametrize("roles", [(), ("sharer",)])
def test_without_the_receivers_tokenizer_there_are_ids_only(tmp_path, roles):
    pair = prepared(tmp_path / "pair", *roles)
    assert write_text_side(pair, tmp_path).tokenizers == {}
    (note,) = pair.notes
    assert "token ids only" in note


def test_nothing_is_said_where_both_have_one(tmp_path):
    pair = prepared(tmp_path / "pair", "receiver", "sharer")
    assert set(write_text_side(pair, tmp_path).tokenizers) == {names.RECEIVER, names.sharer(1)}
    assert pair.notes == ()
