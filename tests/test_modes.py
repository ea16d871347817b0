"""Modes sharer and t2t from a bundle that was built with baselines, against transformers' generate."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from small_tokenizers import byte_fallback, byte_level
from tiny_bundles import TEMPLATE, build, copied, made_once, pair_paths, resigned, text_pair
from tiny_models import tiny_pair
from transformers import AutoModelForCausalLM, AutoTokenizer

from c2c_export.bench import run
from c2c_export.bench.bandwidth import Bandwidth
from c2c_export.build import BuildOptions, build_bundle
from c2c_export.build_target import build_target
from c2c_export.pair import explicit_pair
from c2c_export.progress import Stages
from c2c_runtime import GenerationOptions, Session
from c2c_runtime.batch import answer_batch
from c2c_runtime.bundle import MANIFEST_NAME, Bundle, digest_of, read_manifest
from c2c_runtime.chat_template import default_chat_template
from c2c_runtime.errors import BundleError, CapacityError, UsageError
from c2c_runtime.ort_backend import OrtGraph
from c2c_runtime.text_to_text import TextToText
from c2c_runtime.verification import verify

PROMPT = "The capital of France is"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "What is the answer?"},
]
SPEAKER = "graphs/ort/sharer1_speaker.onnx"
SHARER_EOS = [7, 9]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``bundle/`` with baselines and ``plain/`` without, of ``pair/``, whose Sharer has EOS ids of its own."""

    def make(directory: Path) -> None:
        paths = text_pair(directory / "pair")
        config = json.loads((paths["sharer"] / "config.json").read_text())
        (paths["sharer"] / "config.json").write_text(
            json.dumps(config | {"eos_token_id": SHARER_EOS})
        )
        (paths["sharer"] / "generation_config.json").unlink()
        sizes = {"max_seq_len": 320, "max_prompt_len": 16}
        build(paths, directory / "bundle", with_baselines=True, **sizes)
        build(paths, directory / "plain", **sizes)

    return made_once(tmp_path_factory, "modes", make)


@pytest.fixture(scope="module")
def bundle(made):
    return made / "bundle"


@dataclass(frozen=True)
class Eager:
    """A model alone, in transformers."""

    model: object
    tokenizer: object
    eos_ids: list[int]

    @classmethod
    def load(cls, path, eos_ids, template=TEMPLATE):
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.chat_template = template
        return cls(AutoModelForCausalLM.from_pretrained(path).eval(), tokenizer, eos_ids)

    def ids(self, prompt):
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        text = self.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def answer(self, prompt, num_tokens):
        ids = torch.tensor([self.ids(prompt)])
        with torch.no_grad():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=num_tokens,
                eos_token_id=self.eos_ids, pad_token_id=0,
            )  # fmt: skip
        return out[0, ids.shape[1] :].tolist()

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def receiver(made):
    return Eager.load(pair_paths(made / "pair")["receiver"], [2])


@pytest.fixture(scope="module")
def sharer(made):
    template = default_chat_template("qwen2")  # the checkpoint has none
    return Eager.load(pair_paths(made / "pair")["sharer"], SHARER_EOS, template)


def options(mode, num_tokens=24, **text_to_text):
    return GenerationOptions(
        max_new_tokens=num_tokens, mode=mode, text_to_text=TextToText(**text_to_text)
    )


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["text", "chat"])
def test_sharer_answers_as_transformers_generate(bundle, sharer, prompt):
    with Session.open(bundle) as session:
        answer = session.ask(prompt, options("sharer"))
        pieces = [piece.text for piece in answer]
        result = answer.result
    assert list(result.token_ids) == sharer.answer(prompt, 24)
    assert result.mode == "sharer"
    assert result.prompt_tokens == len(sharer.ids(prompt))
    assert result.text == "".join(pieces) == sharer.text(result.token_ids)
    assert result.timings.sharer_prefill_s > 0
    assert result.timings.receiver_prefill_s == result.timings.message_s == 0
    assert result.message is None


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["text", "chat"])
def test_text_to_text_is_two_generations_of_transformers(bundle, receiver, sharer, prompt):
    ask, tell = TextToText().ask, TextToText().tell
    question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    request = ask.format(question=question)
    asked = {"role": "user", "content": request}
    with Session.open(bundle) as session:
        result = session.ask(prompt, options("t2t", max_message_tokens=10)).finish()
    written = sharer.answer(request if prompt is PROMPT else [*CHAT[:-1], asked], 10)
    message = sharer.text(written)
    assert result.message == message.strip() != ""
    assert result.message_tokens == len(written)
    reply = {"role": "assistant", "content": message.strip()}
    told = (
        tell.format(message=message.strip(), question=question)
        if prompt is PROMPT
        else [*CHAT[:-1], asked, reply, CHAT[-1]]
    )
    assert list(result.token_ids) == receiver.answer(told, 24)
    assert result.prompt_tokens == len(receiver.ids(told))
    times = result.timings
    assert 0 < times.message_s < times.first_token_s
    assert times.message_s + times.receiver_prefill_s <= times.first_token_s
    assert times.sharer_prefill_s == times.fuse_s == 0


def test_text_to_text_says_what_it_was_told_to_say(bundle, sharer, receiver):
    own = {"ask": "{question} {{x}}", "tell": "{question}: {message}", "max_message_tokens": 3}
    with Session.open(bundle) as session:
        result = session.ask(PROMPT, options("t2t", 4, **own)).finish()
    message = sharer.text(sharer.answer(f"{PROMPT} {{x}}", 3)).strip()
    assert list(result.token_ids) == receiver.answer(f"{PROMPT}: {message}", 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ask": "no place"}, r"ask does not hold \{question\}"),
        ({"ask": "{question} {message}"}, "ask does not hold"),
        ({"tell": "{question}"}, r"tell does not hold \{message\} and \{question\}"),
        ({"tell": "{message} {question.__class__}"}, "tell does not hold"),
        ({"tell": "{message} {question"}, "cannot be read"),
        ({"max_message_tokens": 0}, "max_message_tokens is 0"),
    ],
)
def test_templates_that_leave_something_out_are_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        TextToText(**wrong)


def test_the_sharers_own_eos_ends_its_answer_and_its_message(bundle, tmp_path):
    assert read_manifest(bundle).baselines[0].eos_ids == tuple(SHARER_EOS)
    request = TextToText().ask.format(question=PROMPT)
    with Session.open(bundle) as session:
        alone = session.ask(PROMPT, options("sharer")).finish().token_ids
        written = session.ask(request, options("sharer")).finish().token_ids
    stops = copied(bundle, tmp_path / "b")
    (baseline,) = read_manifest(stops).baselines
    resigned(stops, baselines=(replace(baseline, eos_ids=(alone[4], written[3])),))
    with Session.open(stops) as session:
        result = session.ask(PROMPT, options("sharer")).finish()
        assert result.finish_reason == "eos"
        assert result.token_ids == alone[: len(result.token_ids)]
        assert len(result.token_ids) <= 5
        told = session.ask(PROMPT, options("t2t", 4)).finish()
        assert told.message_tokens <= 4
        assert told.finish_reason == "length", "the Receiver stops where the Sharer does"
        fixed = session.ask(PROMPT, options("t2t", 4, max_message_tokens=9, fixed_length=True))
        assert fixed.finish().message_tokens == 9


def test_c2c_neither_loads_nor_reads_nor_minds_the_speaker(made, bundle, monkeypatch, tmp_path):
    whole = copied(bundle, tmp_path / "b")
    for name in (SPEAKER, f"{SPEAKER}.data", "golden/sharer1_speaker-short.npz"):
        content = bytearray((whole / name).read_bytes())
        content[len(content) // 2] ^= 1
        (whole / name).write_bytes(content)
    loaded = []
    load = OrtGraph.__init__
    monkeypatch.setattr(
        OrtGraph,
        "__init__",
        lambda self, path, *args: (loaded.append(path.stem), load(self, path, *args))[1],
    )
    results = {}
    for path in (made / "plain", whole):
        with Session.open(path, preload=True) as session:
            for mode in ("c2c", "receiver"):
                answer = session.ask(PROMPT, options(mode)).finish()
                results.setdefault(mode, []).append(answer.token_ids)
    assert results["c2c"][0] == results["c2c"][1] != results["receiver"][0]
    assert results["receiver"][0] == results["receiver"][1]
    assert sorted(set(loaded)) == ["fuser", "receiver", "sharer1"]
    with (
        Session.open(whole) as session,
        pytest.raises(BundleError, match=r"speaker.* is not the file that was built"),
    ):
        session.ask(PROMPT, options("sharer")).finish()


def test_only_the_speaker_is_added(made, bundle):
    plain, whole = read_manifest(made / "plain"), read_manifest(bundle)
    added = {SPEAKER, f"{SPEAKER}.data", "golden/sharer1_speaker-short.npz"}
    assert set(whole.files) - set(plain.files) == added
    assert [g.role for g in whole.graphs] == [g.role for g in plain.graphs]
    same = {n for n in plain.files if plain.files[n].sha256 == whole.files[n].sha256}
    assert {name for name in plain.files if not name.endswith(".npz")} <= same
    assert set(Bundle.open(bundle).common_files) == set(Bundle.open(made / "plain").common_files)


def test_a_bundle_without_baselines_says_how_to_get_them(made, cli):
    for mode in ("sharer", "t2t"):
        called = cli("run", made / "plain", PROMPT, "--mode", mode)
        assert called.code == 2
        assert "--with-baselines" in called.err
        assert called.out == ""
    with Session.open(made / "plain") as session, pytest.raises(UsageError, match="holds none"):
        session.sharer(1)


def test_a_manifest_from_before_baselines_opens(made, tmp_path):
    old = copied(made / "plain", tmp_path / "b")
    path = old / MANIFEST_NAME
    data = json.loads(path.read_text())
    del data["baselines"]
    path.write_text(json.dumps(data | {"digest": digest_of(data)}))
    assert read_manifest(old).baselines == ()
    with Session.open(old) as session:
        assert session.ask(PROMPT, options("c2c", 3)).finish().token_ids


def test_what_cannot_be_asked_is_refused(bundle, cli, tmp_path):
    with Session.open(bundle) as session:
        sections = session.sections_of_text(PROMPT)
        for mode in ("sharer", "t2t"):
            with pytest.raises(UsageError, match="takes text or a chat"):
                session.answer(sections, options(mode))
            with pytest.raises(UsageError, match="takes text or a chat"):
                answer_batch(session, [sections], options(mode))
        with pytest.raises(UsageError, match="no user's text"):
            session.ask(CHAT[:-1], options("t2t"))
        with pytest.raises(UsageError, match="conversation of the Receiver"):
            session.ask(PROMPT, options("sharer"), session.conversation())
        with pytest.raises(UsageError, match="Sharer 2"):
            session.sharer(2)
        with pytest.raises(CapacityError):
            session.ask("a b c d " * 60, options("t2t", 4, fixed_length=True)).finish()
    called = cli("run", bundle, "--prompt-ids", "5,6,7", "--mode", "sharer")
    assert called.code == 2
    assert "--chat" in called.err


def test_a_chat_goes_on_in_a_conversation_of_the_sharer(bundle, sharer):
    with Session.open(bundle) as session:
        conversation = session.sharer(1).conversation()
        first = session.ask(CHAT[:2], options("sharer", 6), conversation).finish()
        turn = [*CHAT[:2], {"role": "assistant", "content": first.text}, CHAT[-1]]
        second = session.ask(turn, options("sharer", 6), conversation).finish()
    assert list(second.token_ids) == sharer.answer(turn, 6)


def test_an_answer_can_be_streamed_twice_and_a_session_asked_again(bundle):
    with Session.open(bundle) as session:
        answer = session.ask(PROMPT, options("t2t", 5, max_message_tokens=4))
        ids = [piece.token_id for piece in answer]
        assert tuple(ids) == answer.result.token_ids
        again = session.ask(PROMPT, options("t2t", 5, max_message_tokens=4), session.conversation())
        assert again.finish().token_ids == tuple(ids)
        assert session.sharer(1) is session.sharer(1)


def test_the_command_line_answers_and_shows_the_message(bundle, cli, tmp_path):
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps(CHAT))
    few = ("--max-new-tokens", 6, "--max-message-tokens", 5)
    for prompt in ((PROMPT,), ("--chat", chat)):
        for mode in ("sharer", "t2t"):
            streamed = cli("run", bundle, *prompt, "--mode", mode, *few)
            whole = cli("run", bundle, *prompt, "--mode", mode, *few, "--json")
            assert streamed.code == whole.code == 0, streamed.err + whole.err
            assert streamed.out == whole.json["text"] + "\n"
            assert whole.json["mode"] == mode
            assert f"[{mode}: " in streamed.err
            is_told = mode == "t2t"
            assert ("message " in streamed.err and "(5 tokens)" in streamed.err) == is_told
            assert (whole.json["message"] is not None) == is_told
            assert (whole.json["timings"]["message_s"] > 0) == is_told


def test_verify_and_inspect_name_the_baseline(bundle, cli, tmp_path):
    called = cli("verify", bundle, "--json")
    assert called.code == 0, called.err
    found = [item["name"] for item in called.json["comparisons"]]
    for what in ("cache", "first logits", "first logits, reused buffers", "16 greedy tokens"):
        assert f"Sharer 1 alone, short: {what}" in found
    words = " ".join(cli("inspect", bundle).out.split())
    assert "sharer1_speaker" in words
    assert "Sharer 1 (EOS ids 7, 9)" in words
    damaged = copied(bundle, tmp_path / "b")
    weights = damaged / f"{SPEAKER}.data"
    weights.write_bytes(weights.read_bytes()[::-1])
    called = cli("verify", damaged)
    assert called.code == 3
    assert f"{SPEAKER}.data is not the file that was built" in " ".join(called.err.split())


def test_verify_fails_where_the_speaker_computes_something_else(bundle, cli, tmp_path):
    wrong = copied(bundle, tmp_path / "b")
    (baseline,) = read_manifest(wrong).baselines
    (case,) = baseline.golden
    ids = (case.receiver_ids[1], *case.receiver_ids[1:])
    changed = replace(baseline, golden=(replace(case, receiver_ids=ids),))
    resigned(wrong, baselines=(changed,))
    called = cli("verify", wrong, "--json")
    assert called.code == 4
    failed = {item["name"] for item in called.json["comparisons"] if not item["ok"]}
    assert failed
    assert all(name.startswith("Sharer 1 alone") for name in failed)


def test_bench_measures_both_beside_c2c(made, bundle, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "measure_bandwidth", lambda *_: Bandwidth("a guess", (1e9,)))
    small = ("--prompt-tokens", "8,20", "--new-tokens", 3, "--rounds", 2, "--threads", 1)
    modes = ("--mode", "c2c,sharer", "--mode", "t2t", "--message-tokens", 12)
    page = tmp_path / "bench.html"
    called = cli("bench", bundle, *small, *modes, "--html", page, "--json")
    assert called.code == 0, called.err
    found = {(m["mode"], m["prompt_tokens"]): m for m in called.json["measurements"]}
    assert set(found) == {(mode, n) for mode in ("c2c", "sharer", "t2t") for n in (8, 20)}
    for (mode, _), item in found.items():
        assert (item["message_share"] is not None) == (mode == "t2t")
        for one in item["runs"]:
            assert one["message_tokens"] == (12 if mode == "t2t" else 0)
            parts = ("message", "prefills", "fuse", "first step", "runtime")
            total = sum(one["stages"].get(part, 0.0) for part in parts)
            assert total == pytest.approx(one["first_token_s"])
            assert len(one["steps_s"]) == len(one["graph_steps_s"]) == 2
            assert min(one["graph_steps_s"]) > 0
    assert found["sharer", 8]["stages"]["Sharer prefill"] > 0
    told = found["t2t", 8]
    assert 0 < told["stages"]["message"] < told["first_token_s"]
    assert found["sharer", 8]["decode"]["bandwidth_share"] is None  # another model's weights
    against = {(r["ours"], r["other"], r["metric"]) for r in called.json["ratios"]}
    assert ("bundle c2c", "bundle t2t", "first_token") in against
    assert "bundle t2t, message: " in page.read_text(encoding="utf-8")
    shown = cli("bench", bundle, *small, *modes)
    assert "12 tokens, " in shown.out
    refused = cli("bench", made / "plain", *small, "--mode", "t2t")
    assert (refused.code, "--with-baselines" in refused.err) == (2, True)
    assert "no mode moon" in cli("bench", bundle, "--mode", "moon").err
    too_long = cli("bench", bundle, *small, "--mode", "t2t", "--message-tokens", 400)
    assert "give a smaller --message-tokens" in " ".join(too_long.err.split())


def test_engines_have_no_baselines(made, cli, tmp_path):
    called = cli(
        "build", "--pair", "demo", "--backend", "tensorrt", "--no-engines", "--with-baselines",
        "-o", tmp_path / "b",
    )  # fmt: skip
    assert called.code == 2
    assert "--backend ort" in called.err
    assert list(tmp_path.iterdir()) == []


def test_the_speaker_has_its_sharers_precision(made, tmp_path):
    paths = text_pair(tmp_path / "pair", hidden=64)
    target = build_target("ort", precision="fp32,sharer1=int8")
    build(paths, tmp_path / "b", with_baselines=True, target=target, max_seq_len=128)
    manifest = read_manifest(tmp_path / "b")
    (baseline,) = manifest.baselines
    assert baseline.golden[0].min_cosine == 0.99
    weights = manifest.files[f"{SPEAKER}.data"].size_bytes
    assert weights < 0.6 * 4 * baseline.graph.num_parameters  # the embedding stays in fp32
    with Session.open(tmp_path / "b") as session:
        assert all(comparison.ok for comparison in verify(session))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two Sharers, the first with windows of 16 tokens and a template of its own."""

    def make(directory: Path) -> None:
        sizes = {"layers": 2, "vocab": 640}
        paths = tiny_pair(directory / "pair", "llama", "gemma3_text", receiver=sizes, sharer=sizes)
        second = tiny_pair(directory / "other", "llama", "qwen2", seed=5, receiver=sizes, sharer=sizes)  # fmt: skip
        templated = deepcopy(byte_level())
        templated.chat_template = TEMPLATE
        templated.save_pretrained(paths["receiver"])
        templated.save_pretrained(paths["sharer"])
        byte_fallback().save_pretrained(second["sharer"])
        source = explicit_pair(
            str(paths["receiver"]),
            [str(paths["sharer"]), str(second["sharer"])],
            [paths["fuser"], second["fuser"]],
        )
        wanted = BuildOptions(max_seq_len=448, with_baselines=True)
        report = build_bundle(source, directory / "bundle", wanted, Stages())
        roles = [graph.role for graph in report.graphs]
        assert roles.count("sharer1_speaker") == roles.count("sharer2_speaker") == 1

    return made_once(tmp_path_factory, "two_speakers", make)


def test_two_sharers_each_write_a_message(two):
    eager = [
        Eager.load(two / "pair/sharer", [2]),
        Eager.load(two / "other/sharer", [2], default_chat_template("qwen2")),
    ]
    own = Eager.load(two / "pair/receiver", [2])
    with Session.open(two / "bundle") as session:
        found = [comparison.name for comparison in verify(session)]
        assert any(name.startswith("Sharer 1 alone, window: ") for name in found)
        assert not any(name.startswith("Sharer 2 alone, window: ") for name in found)
        first = session.ask(PROMPT, options("sharer")).finish().token_ids
        second = session.sharer(2).ask(PROMPT, options("receiver")).finish().token_ids
        result = session.ask(CHAT, options("t2t", 12, max_message_tokens=30)).finish()
    assert list(first) == eager[0].answer(PROMPT, 24)  # past the window
    assert list(second) == eager[1].answer(PROMPT, 24)
    asked = {"role": "user", "content": TextToText().ask.format(question=CHAT[-1]["content"])}
    written = [one.answer([*CHAT[:-1], asked], 30) for one in eager]
    messages = [one.text(ids).strip() for one, ids in zip(eager, written, strict=True)]
    assert result.message == "\n\n".join(messages)
    assert result.message_tokens == sum(map(len, written))
    reply = {"role": "assistant", "content": result.message}
    assert list(result.token_ids) == own.answer([*CHAT[:-1], asked, reply, CHAT[-1]], 12)


def test_without_tokenizers_and_open_gates_a_sharer_answers_ids_of_its_own(tmp_path):
    paths = tiny_pair(tmp_path / "pair", open_share=0.0)
    build(paths, tmp_path / "b", with_baselines=True, max_seq_len=64)
    assert [graph.role for graph in read_manifest(tmp_path / "b").graphs] == ["receiver"]
    model = AutoModelForCausalLM.from_pretrained(paths["sharer"]).eval()
    ids = [5, 6, 7, 8, 200]
    with torch.no_grad():
        wanted = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=9, eos_token_id=-1)  # fmt: skip
    ignoring = GenerationOptions(max_new_tokens=9, ignore_eos=True)
    with Session.open(tmp_path / "b") as session:
        speaker = session.sharer(1)
        result = speaker.answer(speaker.sections_of_ids(ids), ignoring).finish()
        assert list(result.token_ids) == wanted[0, len(ids) :].tolist()
        assert result.text is None
        with pytest.raises(UsageError, match="no tokenizer"):
            session.ask(PROMPT, options("sharer"))
