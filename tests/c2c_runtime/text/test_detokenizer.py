from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from small_tokenizers import KINDS, TEXTS, exported

from c2c_runtime.text.detokenizer import StreamingDetokenizer
from c2c_runtime.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return exported(KINDS[request.param](), tmp_path_factory.mktemp(request.param))


def of_kind(kind: str, tmp_path) -> Tokenizer:
    return exported(KINDS[kind](), tmp_path)


def pieces(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = True) -> list[str]:
    stream = StreamingDetokenizer(tokenizer, skip_special_tokens)
    return [*(stream.push(id) for id in ids), stream.finish()]


@pytest.mark.parametrize("skip_special_tokens", [True, False])
def test_pieces_of_texts_join_to_decode(tokenizer, skip_special_tokens):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        for start in (0, len(ids) // 3):
            for stop in (len(ids), 2 * len(ids) // 3):
                part = ids[start:stop]
                joined = "".join(pieces(tokenizer, part, skip_special_tokens))
                assert joined == tokenizer.decode(part, skip_special_tokens)


@pytest.mark.parametrize("skip_special_tokens", [True, False])
def test_pieces_of_random_ids_join_to_decode(tokenizer, skip_special_tokens):
    random_ids = random.Random(0)
    single = [id for id in range(tokenizer.vocab_size) if len(tokenizer.token_text(id)) == 1]
    fallback = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in range(256)]
    bytes_and_letters = [id for id in fallback if id is not None] or single
    special = sorted(tokenizer.special_ids)
    for _ in range(1500):
        share = random_ids.choice([0.0, 0.3, 0.8, 1.0])
        ids = [
            random_ids.choice(special)
            if random_ids.random() < 0.05
            else random_ids.choice(bytes_and_letters)
            if random_ids.random() < share
            else random_ids.randrange(tokenizer.vocab_size + 2)
            for _ in range(random_ids.randrange(60))
        ]
        joined = "".join(pieces(tokenizer, ids, skip_special_tokens))
        assert joined == tokenizer.decode(ids, skip_special_tokens)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_no_piece_holds_half_a_character(kind, tmp_path):
    tokenizer = of_kind(kind, tmp_path)
    text = "é北京🚀 👩‍👩‍👧 done"
    given = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(given) == text
    assert len([piece for piece in given if piece]) > 3
    assert not any("\ufffd" in piece for piece in given)


def test_whole_characters_come_at_once(tmp_path):
    tokenizer = of_kind("byte_level", tmp_path)
    stream = StreamingDetokenizer(tokenizer)
    for id in tokenizer.encode("The capital of France is Paris."):
        assert stream.push(id) == tokenizer.decode([id])
    assert stream.finish() == ""


def test_whole_characters_come_before_an_incomplete_one(tmp_path):
    tokenizer = of_kind("byte_level", tmp_path)
    stream = StreamingDetokenizer(tokenizer)
    first, second, third = (tokenizer.token_id(letter) for letter in ("å", "Į", "Ĺ"))  # 北
    assert stream.push(first) == ""
    assert stream.push(first) == "\ufffd"  # the first one can no longer become a character
    assert stream.push(second) == ""
    assert stream.push(third) == "北"


def test_a_long_run_of_invalid_bytes_is_cut_between_characters(tmp_path):
    tokenizer = of_kind("byte_level", tmp_path)
    # The first three of a rocket's four bytes, again and again: one U+FFFD each time.
    broken = [tokenizer.token_id(letter) for letter in ("ð", "Ł", "ļ")]
    for extra in range(4):
        ids = broken * 60 + broken[:extra]
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)
        assert tokenizer.decode(broken * 60) == "\ufffd" * 60


def test_an_incomplete_end_comes_with_finish(tmp_path):
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = of_kind(kind, tmp_path / kind)
        ids = tokenizer.encode("a🚀")[:-1]
        given = pieces(tokenizer, ids)
        assert given[-1].startswith("\ufffd")
        assert "".join(given) == tokenizer.decode(ids)


def test_spaces_between_words_survive_a_skipped_token(tmp_path):
    tokenizer = of_kind("byte_fallback", tmp_path)
    eos = tokenizer.eos_id
    ids = [eos, *tokenizer.encode("one", add_special_tokens=False), eos, eos]
    ids += tokenizer.encode("two", add_special_tokens=False)
    assert "".join(pieces(tokenizer, ids)) == "one two"


def test_finish_starts_a_new_text(tmp_path):
    tokenizer = of_kind("byte_fallback", tmp_path)
    stream = StreamingDetokenizer(tokenizer)
    ids = tokenizer.encode("hello")
    first = "".join([*(stream.push(id) for id in ids), stream.finish()])
    second = "".join([*(stream.push(id) for id in ids), stream.finish()])
    assert first == second == "hello"


def test_cost_of_a_token_does_not_grow(tokenizer, monkeypatch):
    num_decoded = 0
    decode = Tokenizer.decode

    def counting(self, ids, skip_special_tokens=True):
        nonlocal num_decoded
        num_decoded += len(ids)
        return decode(self, ids, skip_special_tokens)

    monkeypatch.setattr(Tokenizer, "decode", counting)
    # Letters, bytes that never make a character, special tokens: each 2000 times.
    found = [tokenizer.token_id(word) for word in ("a", "å", "<0xE5>", "<|im_end|>", "<eos>")]
    repeated = [id for id in found if id is not None]
    assert repeated
    for id in repeated:
        num_decoded = 0
        pieces(tokenizer, [id] * 2000)
        assert num_decoded <= 2000 * 100
