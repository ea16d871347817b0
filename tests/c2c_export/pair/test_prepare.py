"""What a pair's files come to: here, which Sharer token a Receiver token becomes."""

from __future__ import annotations

from copy import deepcopy

import pytest
from small_tokenizers import byte_level
from tiny_bundles import source_of
from tiny_models import tiny_pair

from c2c_export.pair.alignment import build_alignment
from c2c_export.pair.prepare import prepare_pair
from c2c_runtime.bundle import names
from c2c_runtime.errors import PairError

NUM_IDS = max(byte_level().get_vocab().values()) + 1


def source(directory, *, receiver_rows, sharer_rows, added=()):
    """A pair of one tokenizer, to which the Receiver may have added tokens."""
    paths = tiny_pair(
        directory,
        receiver={"layers": 1, "vocab": receiver_rows},
        sharer={"layers": 1, "vocab": sharer_rows},
    )
    own = deepcopy(byte_level())
    own.add_tokens(list(added))
    own.save_pretrained(paths["receiver"])
    byte_level().save_pretrained(paths["sharer"])
    return source_of(paths)


def test_ids_that_the_sharer_does_not_have_get_a_table(tmp_path):
    added = ("<think>", "</think>")
    tried = source(tmp_path, receiver_rows=NUM_IDS + 2, sharer_rows=NUM_IDS, added=added)
    prepared = prepare_pair(tried)
    (sharer,) = prepared.pair.sharers
    assert sharer.alignment == "longest"
    receiver, other = (prepared.tokenizers[role] for role in (names.RECEIVER, names.sharer(1)))
    table = build_alignment(receiver, other, NUM_IDS + 2, NUM_IDS, "longest")
    assert int(table.max()) < NUM_IDS
    ids = receiver.encode("The capital of France", add_special_tokens=False)
    assert table[ids].tolist() == ids
    with pytest.raises(PairError, match="ids beyond the vocabulary of Sharer 1"):
        prepare_pair(tried, alignment="none")


@pytest.mark.parametrize(
    ("receiver_rows", "added"),
    [(NUM_IDS + 20, ()), (NUM_IDS, ("<think>",))],
    ids=["rows without a token", "a token without a row"],
)
def test_ids_that_no_token_of_the_receiver_has_need_none(tmp_path, receiver_rows, added):
    tried = source(tmp_path, receiver_rows=receiver_rows, sharer_rows=NUM_IDS, added=added)
    for alignment in ("auto", "none"):
        assert prepare_pair(tried, alignment=alignment).pair.sharers[0].alignment == "none"


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tried = source(tmp_path, receiver_rows=256, sharer_rows=NUM_IDS)
    with pytest.raises(PairError, match=f"256 embeddings.*ids up to {NUM_IDS - 1}"):
        prepare_pair(tried)


def test_an_added_token_without_a_row_is_noted(tmp_path):
    tried = source(tmp_path, receiver_rows=NUM_IDS, sharer_rows=NUM_IDS, added=("<think>",))
    (note,) = [note for note in prepare_pair(tried).notes if "embeddings" in note]
    assert "1 added token(s)" in note
    assert str(tried.receiver) in note
