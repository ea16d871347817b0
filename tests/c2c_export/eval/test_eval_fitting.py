"""Items that do not fit: named before the run where prompts tell it, else a result like any other."""

from __future__ import annotations

import json

import pytest
from baseline_bundles import baseline_bundle

from c2c_export.eval import answering
from c2c_export.eval.answering import Asker
from c2c_runtime.text.text_to_text import TextToText

FEW = ("--ask", "Help: {question}", "--tell", "{message} {question}", "--threads", 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Receiver and Sharer speak; 320 tokens."""
    return baseline_bundle(tmp_path_factory) / "bundle"


def task_file(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def refused(called, tmp_path):
    assert called.code == 3, called.err
    assert "1 of 2 items do not fit" in called.err
    assert "Nothing was run" in called.err
    assert not (tmp_path / "out").exists()
    return " ".join(called.err.split())


SHORT = {"id": "short", "prompt": "One and one is", "answer": "two"}
MIDDLE = {"id": "middle", "prompt": "a b " * 30, "answer": "x"}


@pytest.mark.parametrize(
    ("mode", "options", "words"),
    [
        ("t2t", ("--ask", "help me " * 40 + "{question}"), "the Sharer's message of up to 40 tokens"),
        ("t2t", ("--max-message-tokens", 150, "--max-new-tokens", 120), "the longest message and the answer"),
        ("t2t", ("--max-new-tokens", 250), "the longest message and the answer"),
        ("sharer", ("--max-new-tokens", 300), "no room for the answer of up to 300 tokens"),
    ],
)  # fmt: skip
def test_every_prompt_of_every_mode_is_read_before_the_run(
    cli, bundle, tmp_path, mode, options, words
):
    task = task_file(tmp_path / "t.jsonl", [SHORT, MIDDLE])
    command = ("eval", bundle, "--task", task, "-o", tmp_path / "out", "--mode", mode, *FEW)
    fitting = ("--max-new-tokens", 2, "--max-message-tokens", 40)
    message = refused(cli(*command, *fitting, *options), tmp_path)
    assert "item middle: " in message
    assert words in message
    assert f"(mode {mode})" in message
    assert cli(*command, *fitting).code == 0


def test_a_chat_that_text_to_text_cannot_ask_about_is_named(cli, bundle, tmp_path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    items = [SHORT, {"id": "odd", "messages": chat, "answer": "x"}]
    task = task_file(tmp_path / "t.jsonl", items)
    called = cli("eval", bundle, "--task", task, "-o", tmp_path / "out", *FEW, "--max-message-tokens", 5, "--max-new-tokens", 2)  # fmt: skip
    assert "item odd: text-to-text asks the Sharer" in refused(called, tmp_path)


def test_an_option_that_is_too_long_to_score_is_named(cli, bundle, tmp_path):
    items = [
        {"id": "short", "question": "Which?", "choices": ["a", "b"], "answer": "A"},
        {"id": "long", "question": "Which?", "choices": ["a", "a b " * 150], "answer": "A"},
    ]
    task = task_file(tmp_path / "t.jsonl", items)
    command = ("eval", bundle, "--task", task, "-o", tmp_path / "out", "--prompt-style", "plain")
    items[1]["prompt"] = "Which?"
    task_file(task, items)
    message = refused(cli(*command, "--scoring", "text"), tmp_path)
    assert "item long: " in message
    assert cli(*command, "--scoring", "letter").code == 0


@pytest.fixture
def long_messages(monkeypatch):
    """Sharers whose message takes far more of the Receiver's tokens than of their own."""
    told = TextToText.told

    def wordy(self, prompt, message):
        return told(self, prompt, message and "a b " * 400 if "middle" in prompt else message)

    monkeypatch.setattr(TextToText, "told", wordy)


def test_what_only_the_run_can_tell_is_a_result_and_a_resume_goes_on(
    cli, bundle, tmp_path, monkeypatch, long_messages
):
    middle = {"id": "middle", "prompt": "in the middle", "answer": "x"}
    task = task_file(tmp_path / "t.jsonl", [SHORT, middle, SHORT | {"id": "last"}])
    command = (
        "eval", bundle, "--task", task, "-o", tmp_path / "out", *FEW, "--max-message-tokens", 5,
        "--max-new-tokens", 4, "--json",
    )  # fmt: skip
    ask = Asker.ask

    def stopping(self, item):
        if item.id == "last":
            raise KeyboardInterrupt
        return ask(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Asker, "ask", stopping)
        assert cli(*command).code == 130
    called = cli(*command)
    assert called.code == 0, called.err
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    answers = {found["id"]: found["answers"] for found in map(json.loads, lines[1:])}
    assert list(answers) == ["short", "middle", "last"]
    assert "do not fit" in answers["middle"]["t2t"]["misfit"]
    assert not any(
        found["misfit"]
        for item, modes in answers.items()
        for mode, found in modes.items()
        if (item, mode) != ("middle", "t2t")
    )
    modes = called.json["modes"]
    assert [modes[mode]["num_misfits"] for mode in modes] == [0, 0, 0, 1]
    t2t = modes["t2t"]
    assert (t2t["accuracy"]["num_items"], t2t["num_without"]) == (3, 0)
    assert t2t["num_tokens"] >= 1  # of those that fit
    assert "did not fit" in (tmp_path / "out" / "report.md").read_text()


def test_errors_of_other_kinds_still_end_the_run(cli, bundle, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(answering, "_judged", broken)
    task = task_file(tmp_path / "t.jsonl", [SHORT])
    command = ("eval", bundle, "--task", task, "-o", tmp_path / "out", "--mode", "receiver")
    assert cli(*command, "--max-new-tokens", 2).code == 1


def test_results_without_the_field_are_those_of_items_that_fitted(cli, bundle, tmp_path):
    task = task_file(tmp_path / "t.jsonl", [SHORT])
    command = ("eval", bundle, "--task", task, "-o", tmp_path / "out", "--mode", "receiver")
    assert cli(*command, "--max-new-tokens", 2).code == 0
    results = tmp_path / "out" / "results.jsonl"
    results.write_text(results.read_text().replace(', "misfit": ""', ""))
    called = cli(*command, "--max-new-tokens", 2, "--json")
    assert called.json["modes"]["receiver"]["num_misfits"] == 0
