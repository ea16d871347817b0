"""The demo pair, real weights from package indexes: what ``make demo`` builds, against transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from masked_eager import masked_eager
from paths import DATA
from real_models import gemma3_tokenizer, smollm2_tokenizer

from c2c_export.building.build import build_bundle
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.progress import Stages
from c2c_export.commands.demo import WORDS
from c2c_export.eval.short_answers import short_answer
from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.pair.demo import gemma3_gguf, smollm2_gguf, word_sections
from c2c_export.pair.pair import parse_pair
from c2c_export.reading.checkpoints import load_model
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.answers.session import Session
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.text.text_to_text import TextToText

pytestmark = pytest.mark.real

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at",
    "Dear Sir or Madam,\n\nI am writing to",
)
NUM_TOKENS = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.bundle"
    report = build_bundle(parse_pair("demo"), path, BuildOptions(with_baselines=True), Stages())
    assert all(comparison.ok for comparison in report.comparisons)
    assert report.peak_memory_bytes < 8 * 2**30
    return path


@pytest.fixture(scope="module")
def receiver():
    return load_model(resolve_model(str(smollm2_gguf())))


def test_receiver_mode_gives_the_tokens_of_transformers(bundle, receiver, cli):
    """Greedy text is transformers' if each of its ids is the best after those before it: one pass over
    the prompt and the answer tells that of all 64 at once."""
    tokenizer = smollm2_tokenizer()
    for prompt in PROMPTS:
        called = cli("run", bundle, prompt, "--mode", "receiver", "--max-new-tokens", NUM_TOKENS, "--json")  # fmt: skip
        assert called.code == 0, called.err
        answer = called.json["token_ids"]
        prompt_ids = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            logits = receiver(input_ids=torch.tensor([prompt_ids + answer])).logits[0]
        best = logits.argmax(-1).tolist()[len(prompt_ids) - 1 : -1]
        assert answer == best, prompt
        has_ended = answer[-1] in Bundle.open(bundle).manifest.eos_ids
        assert len(answer) == NUM_TOKENS or has_ended
        assert called.json["text"] == tokenizer.decode(answer, skip_special_tokens=True)


def test_the_sharer_alone_and_its_message_are_those_of_transformers(bundle, receiver, cli):
    tokenizer, sharer = gemma3_tokenizer(), load_model(resolve_model(str(gemma3_gguf())))
    text_to_text = TextToText(max_message_tokens=32)
    with Session.open(bundle) as session:
        for prompt in PROMPTS[:2]:
            options = GenerationOptions(max_new_tokens=32, mode="sharer")
            asked = session.ask(text_to_text.request(prompt), options).finish()
            ids = tokenizer(text_to_text.request(prompt))["input_ids"]
            assert list(asked.token_ids) == _best_ids(sharer, ids, asked.token_ids)
            options = GenerationOptions(32, "t2t", text_to_text=text_to_text)
            answer = session.ask(prompt, options).finish()
            assert answer.message == (asked.text or "").strip() != ""
            assert answer.message_tokens == len(asked.token_ids)
            ids = smollm2_tokenizer()(text_to_text.told(prompt, answer.message))["input_ids"]
            assert list(answer.token_ids) == _best_ids(receiver, ids, answer.token_ids)


def test_the_golden_chats_equal_one_masked_eager_pass_over_the_padded_sequence(bundle, receiver):
    """Template padding is dropped and its positions kept: caches, first logits and greedy tokens are
    those of the training-time computation, which masks the padding."""
    sharer = load_model(resolve_model(str(gemma3_gguf())))
    fuser = read_fuser(parse_pair("demo").fusers[0])
    golden = json.loads((DATA / "alignment_smollm2_from_gemma3.json").read_text("utf-8"))
    chats = {str(chat["messages"]): chat["messages"] for chat in golden["chats"]}
    assert chats
    with Session.open(bundle) as session:
        conversation = session.conversation()
        for messages in chats.values():
            sections = session.sections_of_chat(messages)
            lengths = [(len(s.receiver_ids), len(s.sharer_ids[0])) for s in sections]
            assert any(own != other for own, other in lengths), (
                "no padding: this chat tests nothing"
            )
            yardstick = masked_eager(receiver, sharer, fuser, sections, num_greedy=24)
            conversation.reset()
            for section in sections[:-1]:
                conversation.append(
                    section.receiver_ids, section.sharer_ids, section.mask, section.span
                )
            for key, expected in yardstick.receiver.items():
                _close(conversation.receiver.valid(*key), expected)
            for key in conversation.sharers[0].buffers:
                _close(conversation.sharers[0].valid(*key), yardstick.sharer[key])
            _close(conversation.decode(sections[-1].receiver_ids), yardstick.logits)
            options = GenerationOptions(max_new_tokens=24, ignore_eos=True)
            answer = session.answer(sections, options, conversation).finish()
            assert answer.token_ids == yardstick.greedy_ids


def test_verify_repeats_the_check_from_the_bundle(bundle, cli):
    called = cli("verify", bundle, "--json")
    assert called.code == 0, called.err
    names = [item["name"] for item in called.json["comparisons"]]
    assert any(name.startswith("Sharer 1 alone, window") for name in names)
    assert any(name.startswith("window") for name in names), "Gemma's window was not passed"
    assert all(item["ok"] for item in called.json["comparisons"])


def test_c2c_knows_the_words_of_make_demo_and_the_receiver_alone_does_not(bundle):
    with Session.open(bundle) as session:
        for language, word, gloss in WORDS:
            sections = session.sections_of_texts(word_sections(language, word))
            said = {
                mode: session.answer(sections, GenerationOptions(8, mode)).finish()
                for mode in ("c2c", "receiver")
            }
            assert short_answer(said["c2c"].text) == gloss, word
            assert short_answer(said["receiver"].text) != gloss, word


def test_the_demo_shows_its_words_or_those_that_are_given(bundle, cli):
    shown = cli("demo", "-o", bundle)
    assert shown.code == 0, shown.err
    assert all(word in shown.out and gloss in shown.out for _, word, gloss in WORDS)
    given = cli("demo", "-o", bundle, "--word", "French:lune")
    assert "lune (French)" in given.out
    assert WORDS[0][1] not in given.out


def test_a_chat_streams_text(bundle, cli, tmp_path):
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": "Why is the sky blue?"}]))
    streamed = cli("run", bundle, "--chat", chat, "--max-new-tokens", 24)
    whole = cli("run", bundle, "--chat", chat, "--max-new-tokens", 24, "--json")
    assert streamed.out == whole.json["text"] + "\n"
    assert whole.json["text"].strip()
    alone = cli(
        "run", bundle, "--chat", chat, "--max-new-tokens", 24, "--json", "--mode", "receiver"
    )
    assert alone.json["text"] != whole.json["text"], "the demo fuser changes nothing"


def _best_ids(model, prompt_ids, answer) -> list[int]:
    """The best id after the prompt and after each of the answer's but the last."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt_ids, *answer]])).logits[0]
    return logits.argmax(-1).tolist()[len(prompt_ids) - 1 : -1]


def _close(actual, expected, tolerance: float = 1e-4) -> None:
    largest = float(np.max(np.abs(expected)))
    assert float(np.max(np.abs(actual - expected))) <= tolerance * max(1.0, largest)
