from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tokenizers
from small_tokenizers import KINDS, TEXTS, byte_fallback, byte_level, exported, unigram

from c2c_export.reading.tokenizers import export_tokenizer
from c2c_runtime.errors import BundleError, UsageError
from c2c_runtime.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """A bundle's tokenizer and transformers' own."""
    theirs = KINDS[request.param]()
    return exported(theirs, tmp_path_factory.mktemp(request.param)), theirs


@pytest.mark.parametrize("special", [True, False])
def test_ids_and_text_are_those_of_transformers(pair, special):
    ours, theirs = pair
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        for skip in (True, False):
            expected = theirs.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            assert ours.decode(ids, skip_special_tokens=skip) == expected


def test_sizes_and_special_ids_are_those_of_transformers(pair):
    ours, theirs = pair
    assert ours.vocab_size == len(theirs)
    assert ours.special_ids == set(theirs.all_special_ids)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert (ours.pad_id, ours.unk_id) == (theirs.pad_token_id, theirs.unk_token_id)


def test_exactly_one_bos_is_added(tmp_path):
    tokenizer = exported(byte_fallback(), tmp_path)
    ids = tokenizer.encode("hello")
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1
    assert tokenizer.bos_id not in tokenizer.encode("hello", add_special_tokens=False)


def test_offsets_count_characters(tmp_path):
    text = "北京 the capital"
    tokenizer = exported(byte_level(), tmp_path)
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert offsets[-1][1] == len(text)
    assert text[slice(*offsets[0])] == "北"
    assert text[slice(*offsets[-1])] == " capital"


def test_a_token_is_found_by_text_and_id(tmp_path):
    tokenizer = exported(byte_level(), tmp_path)
    assert tokenizer.token_text(tokenizer.token_id("<tool>")) == "<tool>"
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.token_text(10**6) is None


def test_ids_without_a_token_add_nothing(tmp_path):
    tokenizer = exported(unigram(), tmp_path)
    ids = tokenizer.encode("the capital", add_special_tokens=False)
    assert tokenizer.decode([*ids, 10**6]) == "the capital"
    with pytest.raises(UsageError, match="token ids"):
        tokenizer.decode([-1])


def test_a_lone_surrogate_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="surrogate"):
        exported(byte_level(), tmp_path).encode("bad \ud800 text")


def test_without_a_template_a_chat_is_a_usage_error(tmp_path):
    tokenizer = exported(byte_level(), tmp_path)
    assert not tokenizer.has_chat_template
    with pytest.raises(UsageError, match="no chat template"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_a_template_sees_the_special_tokens(tmp_path):
    template = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}"
    tokenizer = exported(byte_fallback(), tmp_path, template)
    text = tokenizer.render_chat([{"role": "user", "content": "hi"}])
    assert text == "<bos>|<eos>|<pad>|<unk>"


def test_a_file_of_a_newer_library_names_both_versions(tmp_path):
    spec = export_tokenizer(byte_level(), tmp_path, "tokenizers/x", None)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["type"] = "NewerBPE"
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError) as error:
        Tokenizer.load(tmp_path, spec, written_by="99.1.0")
    assert f"installed tokenizers {tokenizers.__version__}" in str(error.value)
    assert "written by tokenizers 99.1.0" in str(error.value)
    assert '"tokenizers>=99.1.0"' in error.value.problems[0].remedy


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_a_bundle_error(tmp_path, name):
    spec = export_tokenizer(byte_level(), tmp_path, "tokenizers/x", "{{ messages }}")
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=name):
        Tokenizer.load(tmp_path, spec)


def test_needs_neither_transformers_nor_torch():
    code = (
        "import sys, c2c_runtime.text.tokenizer, c2c_runtime.text.detokenizer, c2c_runtime.sections.alignment,"
        " c2c_runtime.answers.sampling; print({'torch', 'transformers'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
