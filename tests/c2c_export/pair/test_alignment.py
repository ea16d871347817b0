from __future__ import annotations

import json

import numpy as np
import pytest
from paths import DATA
from small_tokenizers import KINDS, byte_fallback, byte_level, unigram
from transformers import PreTrainedTokenizerFast

from c2c_export.pair.alignment import build_alignment, same_ids

GOLDEN = DATA / "alignment_smollm2_from_gemma3.json"


def one_by_one(receiver, sharer, ids: list[int], strategy: str) -> list[int]:
    """The published rule for ids that are no special tokens, a token at a time."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    result = []
    for id in ids:
        found = sharer.encode(receiver.decode([id], **options), add_special_tokens=False)
        if not found:
            result.append(sharer.unk_token_id or 0)
        elif strategy == "first":
            result.append(found[0])
        else:
            lengths = [len(sharer.decode([other], **options)) for other in found]
            result.append(found[lengths.index(max(lengths))])
    return result


@pytest.mark.parametrize("strategy", ["first", "longest"])
@pytest.mark.parametrize("sharer", KINDS)
@pytest.mark.parametrize("receiver", KINDS)
def test_the_table_is_that_of_the_slow_rule(receiver, sharer, strategy):
    receiver, sharer = KINDS[receiver](), KINDS[sharer]()
    size = len(receiver) + 5  # the model's vocabulary is padded
    table = build_alignment(receiver, sharer, size, len(sharer), strategy)
    assert table.dtype == np.int32
    assert table.shape == (size,)
    ids = [id for id in range(size) if id not in receiver.all_special_ids]
    assert table[ids].tolist() == one_by_one(receiver, sharer, ids, strategy)


def test_the_strategies_differ_where_a_later_token_is_longer():
    receiver, sharer = byte_level(), byte_fallback(strips_first_space=False)
    size = len(receiver)
    first = build_alignment(receiver, sharer, size, len(sharer), "first")
    longest = build_alignment(receiver, sharer, size, len(sharer), "longest")
    assert (first != longest).any()
    for id in np.flatnonzero(first != longest):
        assert len(sharer.decode([longest[id]])) > len(sharer.decode([first[id]]))


def table_of_special_tokens(receiver, sharer) -> np.ndarray:
    return build_alignment(receiver, sharer, len(receiver), len(sharer), "first")


def test_special_tokens_map_by_role():
    receiver, sharer = byte_fallback(), unigram()  # the Sharer has no pad token: EOS stands in
    table = table_of_special_tokens(receiver, sharer)
    assert table[receiver.bos_token_id] == sharer.bos_token_id
    assert table[receiver.eos_token_id] == sharer.eos_token_id
    assert table[receiver.unk_token_id] == sharer.unk_token_id
    assert table[receiver.pad_token_id] == sharer.eos_token_id


def test_a_token_that_is_pad_and_eos_maps_as_eos():
    receiver, sharer = byte_level(), byte_fallback()
    assert receiver.pad_token_id == receiver.eos_token_id
    table = table_of_special_tokens(receiver, sharer)
    assert table[receiver.eos_token_id] == sharer.eos_token_id != sharer.pad_token_id


def with_tokens(special: dict[str, str], extra: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer.__class__.from_str(
            byte_level().backend_tokenizer.to_str()
        ),
        **special,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": extra})
    return tokenizer


def test_other_special_tokens_map_by_text_and_then_to_unknown():
    receiver = with_tokens({"eos_token": "<|im_end|>"}, ["<|call|>", "<|mine|>"])
    sharer = with_tokens({"unk_token": "<|endoftext|>"}, ["<|theirs|>", "<|call|>"])
    table = table_of_special_tokens(receiver, sharer)
    call = receiver.convert_tokens_to_ids("<|call|>")
    assert table[call] == sharer.convert_tokens_to_ids("<|call|>")
    assert call != table[call]
    assert table[receiver.convert_tokens_to_ids("<|mine|>")] == sharer.unk_token_id
    # No EOS on the other side: the same text is found.
    assert table[receiver.eos_token_id] == sharer.convert_tokens_to_ids("<|im_end|>")


def test_without_an_unknown_token_0_stands_in():
    receiver = with_tokens({}, ["<|mine|>"])
    sharer = with_tokens({}, [])
    table = build_alignment(receiver, sharer, len(receiver) + 2, len(sharer), "first")
    assert table[receiver.convert_tokens_to_ids("<|mine|>")] == 0
    assert table[-2:].tolist() == [0, 0]


def test_no_entry_is_outside_the_sharers_vocabulary():
    receiver, sharer = byte_level(), byte_fallback()
    table = build_alignment(receiver, sharer, len(receiver), 100, "longest")
    full = build_alignment(receiver, sharer, len(receiver), len(sharer), "longest")
    assert table.max() < 100 <= full.max()
    assert set(table[full >= 100]) == {sharer.unk_token_id}


def test_a_tokenizer_that_pads_and_truncates_gives_the_same_table():
    sharer = byte_fallback(strips_first_space=False)
    expected = build_alignment(byte_level(), sharer, 400, len(sharer), "longest")
    padding = PreTrainedTokenizerFast(
        tokenizer_object=sharer.backend_tokenizer.__class__.from_str(
            sharer.backend_tokenizer.to_str()
        ),
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
    )
    padding.backend_tokenizer.enable_padding(length=8)
    padding.backend_tokenizer.enable_truncation(1)
    table = build_alignment(byte_level(), padding, 400, len(sharer), "longest")
    np.testing.assert_array_equal(table, expected)
    assert padding.backend_tokenizer.padding  # the caller's object is left as it was


def test_progress_is_the_share_of_receiver_ids():
    seen: list[float] = []
    build_alignment(
        byte_level(), unigram(), 20_000, 100, "first", lambda fraction, _: seen.append(fraction)
    )
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_the_inputs_are_left_alone():
    receiver, sharer = byte_level(), unigram()
    build_alignment(receiver, sharer, len(receiver), len(sharer), "first")
    assert sharer.pad_token is None


def test_ids_are_shared_within_one_vocabulary_only():
    assert same_ids(byte_level(), byte_level())
    assert not same_ids(byte_level(), unigram())


def test_a_vocabulary_that_only_has_more_tokens_shares_its_ids():
    more = with_tokens({"pad_token": "<|im_end|>"}, [])
    more.add_tokens(["<another>"])
    assert same_ids(byte_level(), more)
    assert same_ids(more, byte_level())


@pytest.mark.real
def test_real_texts_are_aligned_as_the_reference_does():
    from real_models import gemma3_tokenizer, smollm2_tokenizer

    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    sizes = golden["receiver_vocab"], golden["sharer_vocab"]
    receiver, sharer = smollm2_tokenizer(), gemma3_tokenizer()
    assert golden["texts"]
    for strategy in ("first", "longest"):
        table = build_alignment(receiver, sharer, *sizes, strategy)
        for text in golden["texts"]:
            ids = receiver.encode(text["text"])
            assert ids == text["receiver_ids"]
            assert [int(table[id]) for id in ids] == text[strategy]
        sample = [id for id in range(3, sizes[0], 37)]
        assert table[sample].tolist() == one_by_one(receiver, sharer, sample, strategy)
    assert not same_ids(receiver, sharer)
