"""What a bundle reads whose Sharer brought no tokenizer."""

from __future__ import annotations

import pytest
from tiny_bundles import copied, resigned, text_bundle

from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import read_manifest
from c2c_runtime.errors import UsageError


@pytest.fixture
def bundle(tmp_path_factory, tmp_path):
    path = copied(text_bundle(tmp_path_factory) / "bundle", tmp_path / "b")
    found = read_manifest(path).tokenizers
    return resigned(path, tokenizers={names.RECEIVER: found[names.RECEIVER]})


def test_plain_prompts_are_answered_without_the_sharers_tokenizer(bundle):
    with Session.open(bundle) as session:
        options = GenerationOptions(max_new_tokens=2, ignore_eos=True)
        assert len(session.ask("The capital", options).finish().token_ids) == 2


def test_a_chat_says_which_tokenizer_is_missing_and_what_works(bundle):
    with Session.open(bundle) as session, pytest.raises(UsageError, match="sharer1") as caught:
        session.ask([{"role": "user", "content": "hello"}])
    assert "plain prompt" in caught.value.remedy
