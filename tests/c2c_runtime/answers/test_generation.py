"""Where an answer ends: at a stop text, or after the tokens that are the default."""

from __future__ import annotations

import pytest
from tiny_bundles import build, copied, made_once, resigned, text_pair

from c2c_runtime import GenerationOptions, Session, answer_batch
from c2c_runtime.errors import UsageError

PROMPT = "Why is the sky blue?"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Room for more tokens than an answer has by default."""

    def make(directory):
        build(text_pair(directory / "pair"), directory / "bundle", max_seq_len=384, verify=False)

    return made_once(tmp_path_factory, "long_text", make) / "bundle"


def options(**changed):
    return GenerationOptions(**{"max_new_tokens": 40, "ignore_eos": True} | changed)


def test_an_answer_ends_before_a_stop_text_wherever_its_tokens_lie(bundle):
    with Session.open(bundle) as session:
        whole = session.ask(PROMPT, options()).finish()
        assert whole.text is not None
        for start in range(2, len(whole.text) - 6, 5):
            stop = whole.text[start : start + 5]
            answer = session.ask(PROMPT, options(stop=("not there", stop)))
            pieces = list(answer)
            result = answer.result
            assert result is not None
            expected = whole.text[: whole.text.find(stop)]
            assert result.text == "".join(piece.text for piece in pieces) == expected
            assert result.finish_reason == "stop"
            assert result.token_ids == whole.token_ids[: len(result.token_ids)]
        prompt = session.sections_of_text(PROMPT)
        (batched,) = answer_batch(session, [prompt], options(stop=(stop,)))
        assert (batched.text, batched.finish_reason) == (expected, "stop")
        unstopped = session.ask(PROMPT, options(stop=(whole.text[-3:] + "!!",))).finish()
        assert (unstopped.text, unstopped.finish_reason) == (whole.text, "length")


@pytest.mark.parametrize("stop", ["x", ("",), (5,), None, {"x": 1}, (b"x",)])
def test_what_is_no_stop_text_is_refused(stop):
    with pytest.raises(UsageError, match="stop is"):
        GenerationOptions(stop=stop)


def test_stop_texts_need_a_tokenizer(bundle, tmp_path):
    silent = resigned(copied(bundle, tmp_path / "b"), tokenizers={})
    with Session.open(silent) as session, pytest.raises(UsageError, match="need a tokenizer"):
        session.answer(session.sections_of_ids([5, 6]), options(stop=("x",))).finish()


def test_the_default_ends_an_answer_and_the_command_says_so(bundle, cli):
    called = cli("run", bundle, PROMPT, "--ignore-eos", "--json")
    assert len(called.json["token_ids"]) == 256
    assert "ended after 256 tokens, the default" in called.err
    called = cli("run", bundle, PROMPT, "--ignore-eos", "--max-new-tokens", 256)
    assert "the default" not in called.err
    with Session.open(bundle) as session:
        result = session.ask(PROMPT, GenerationOptions(ignore_eos=True)).finish()
        assert len(result.token_ids) == 256
        full = session.ask(PROMPT, options(max_new_tokens=None)).finish()
    assert full.prompt_tokens + len(full.token_ids) == 384 + 1


def test_a_prompt_is_read_from_a_file_as_it_stands(bundle, cli, tmp_path):
    (tmp_path / "p.txt").write_text(PROMPT + "\r\n", newline="")
    few = ("--max-new-tokens", 3, "--json")
    by_file = cli("run", bundle, "--prompt-file", tmp_path / "p.txt", *few).json
    by_word = cli("run", bundle, PROMPT + "\r\n", *few).json
    assert by_file["token_ids"] == by_word["token_ids"]
    assert by_file["prompt_tokens"] == by_word["prompt_tokens"]
    assert cli("run", bundle, PROMPT, "--prompt-file", tmp_path / "p.txt").code == 2
    missing = cli("run", bundle, "--prompt-file", tmp_path / "none.txt")
    assert (missing.code, missing.out) == (2, "")
    assert "cannot be read" in missing.err
    longer = ("--max-new-tokens", 20, "--ignore-eos", "--json")
    whole = cli("run", bundle, PROMPT, *longer).json["text"]
    stopped = cli("run", bundle, PROMPT, *longer, "--stop", whole[4:8]).json
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole[: whole.find(whole[4:8])]
