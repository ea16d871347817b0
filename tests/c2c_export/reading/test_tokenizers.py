from __future__ import annotations

import json

import pytest
from small_tokenizers import KINDS, TEXTS, byte_fallback, byte_level, exported
from transformers import PreTrainedTokenizer

from c2c_export.reading.tokenizers import export_tokenizer, load_tokenizer
from c2c_runtime.bundle.manifest import SpecialToken
from c2c_runtime.errors import PairError
from c2c_runtime.text.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    """A checkpoint directory with one of the small tokenizers."""
    KINDS[request.param]().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_saved_checkpoint_comes_through_unchanged(saved, tmp_path):
    theirs = load_tokenizer(saved)
    ours = exported(theirs, tmp_path / "bundle")
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        for skip in (True, False):
            expected = theirs.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            assert ours.decode(ids, skip_special_tokens=skip) == expected


def test_a_checkpoint_without_tokenizer_files_has_none(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert load_tokenizer(tmp_path) is None


def test_a_damaged_tokenizer_is_a_pair_error(tmp_path):
    byte_level().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(PairError, match="cannot be read") as error:
        load_tokenizer(tmp_path)
    assert error.value.problems[0].remedy


def test_a_gguf_file_without_a_tokenizer_is_a_pair_error(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(PairError, match=r"model\.gguf"):
        load_tokenizer(tmp_path, "model.gguf")


class SlowTokenizer(PreTrainedTokenizer):
    """Written in Python, as research checkpoints bring them."""

    @property
    def vocab_size(self) -> int:
        return 2

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 1}

    def _tokenize(self, text: str) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab().get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return "ab"[index]


def test_a_slow_tokenizer_is_a_pair_error(tmp_path):
    with pytest.raises(PairError, match=r"SlowTokenizer .* slow tokenizer") as error:
        export_tokenizer(SlowTokenizer(), tmp_path / "bundle", "tokenizers/receiver", None)
    assert "save_pretrained" in error.value.problems[0].remedy
    assert not (tmp_path / "bundle").exists()


def test_the_spec_holds_path_and_special_tokens(tmp_path):
    spec = export_tokenizer(byte_fallback(), tmp_path, "tokenizers/sharer1", None)
    assert spec.path == "tokenizers/sharer1"
    assert spec.bos == SpecialToken("<bos>", byte_fallback().bos_token_id)
    assert spec.pad == SpecialToken("<pad>", byte_fallback().pad_token_id)
    assert not spec.has_chat_template
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_two_exports_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        export_tokenizer(byte_level(), tmp_path / name, "tokenizers/x", "{{ 1 }}\r\n")
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "chat_template.jinja").read_bytes() == b"{{ 1 }}\r\n"


def test_padding_and_truncation_stay_out_of_the_bundle(tmp_path):
    byte_fallback().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    export_tokenizer(tokenizer, tmp_path / "bundle", "tokenizers/x", None)
    content = json.loads((tmp_path / "bundle" / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["truncation"] is None
    assert content["padding"] is None
    assert tokenizer.backend_tokenizer.truncation  # the caller's object is left as it was


@pytest.mark.parametrize(
    ("own", "default", "expected"),
    [
        ("own {{ messages[0].content }}", "default", "own hello"),
        (None, "default {{ messages[0].content }}", "default hello"),
        ({"default": "named", "tool_use": "other"}, "default", "named"),
    ],
)
def test_the_tokenizers_own_chat_template_comes_first(own, default, expected, tmp_path):
    byte_level().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat_template = own
    assert exported(tokenizer, tmp_path / "bundle", default).render_chat(CHAT) == expected


@pytest.mark.real
@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_real_tokenizers_come_through_unchanged(model, tmp_path):
    import real_models

    theirs = getattr(real_models, f"{model}_tokenizer")()
    spec = export_tokenizer(theirs, tmp_path, "tokenizers/x", None)
    ours = Tokenizer.load(tmp_path, spec)
    assert ours.vocab_size == len(theirs)
    num_bos = 1 if model == "gemma3" else 0
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        if "<bos>" not in text and "<|im_start|>" not in text:
            assert ids.count(theirs.bos_token_id) == num_bos
        for skip in (True, False):
            expected = theirs.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            assert ours.decode(ids, skip_special_tokens=skip) == expected
    if theirs.chat_template:
        expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        assert ours.render_chat(CHAT) == expected
