"""A text has at least as many tokens as its length says, whatever the text and the tokenizer."""

from __future__ import annotations

import random
import unicodedata

import pytest
import tokenizers
from small_tokenizers import byte_fallback, byte_level
from tiny_bundles import text_bundle
from tokenizers import normalizers, pre_tokenizers

from c2c_runtime import SectionText, Session
from c2c_runtime.errors import CapacityError
from c2c_runtime.text.token_bound import TokenBound
from c2c_runtime.text.tokenizer import Tokenizer

TEXTS = {
    "words": "the quick brown fox " * 500,
    "spaces": " " * 9999,
    "one letter": "a" * 9999,
    "decomposed": unicodedata.normalize("NFD", "ǖ각ﷺệ") * 2000,
    "marks": "e" + "\u0301" * 9999,
    "unknown": "\U0010fffd\ue000\x00" * 999,
    "special": "<|im_start|>  \n" * 999,
    "any": "".join(chr(random.Random(1).randrange(1, 0xD000)) for _ in range(2000)),
}


def variants():
    for name, make in (("bytes", byte_level), ("fallback", byte_fallback)):
        for normalizer in (None, normalizers.NFC()):
            backend = tokenizers.Tokenizer.from_str(make().backend_tokenizer.to_str())
            if normalizer is not None:
                parts = [normalizer, *([backend.normalizer] if backend.normalizer else [])]
                backend.normalizer = normalizers.Sequence(parts)
            yield pytest.param(backend, id=f"{name} {normalizer}")
        backend.add_special_tokens([tokenizers.AddedToken("<|im_start|>", rstrip=True)])
        yield pytest.param(backend, id=f"{name} stripping")


@pytest.mark.parametrize("backend", list(variants()))
def test_no_text_has_fewer_tokens(backend):
    bound = TokenBound(backend)
    for text in TEXTS.values():
        assert bound.min_num_tokens(text) <= len(backend.encode(text, add_special_tokens=False).ids)
    assert bound.min_num_tokens("a" * 10**6) > 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "normalizer", normalizers.Strip()),
        lambda backend: setattr(backend, "normalizer", normalizers.Replace("aa", "a")),
        lambda backend: setattr(
            backend, "normalizer", normalizers.Replace(tokenizers.Regex("a+"), "a")
        ),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Split("a", "removed")),
        lambda backend: setattr(backend, "pre_tokenizer", None),
    ],
)
def test_nothing_is_said_of_tokenizers_that_leave_something_out(change):
    backend = tokenizers.Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    change(backend)
    assert TokenBound(backend).min_num_tokens("a" * 10**6) == 0


def test_what_cannot_fit_is_refused_before_it_is_read(tmp_path_factory, monkeypatch):
    text = "word " * 200_000
    with Session.open(text_bundle(tmp_path_factory) / "bundle") as session:
        session.sections_of_chat([{"role": "user", "content": "hi"}])
        monkeypatch.setattr(Tokenizer, "_encode", lambda *_: pytest.fail("it was read"))
        for call in (
            lambda: session.sections_of_text(text),
            lambda: session.ask([{"role": "user", "content": text}]),
            lambda: session.sections_of_texts([SectionText(text)]),
        ):
            with pytest.raises(CapacityError, match=r"at least .* tokens; the caches hold 64"):
                call()
