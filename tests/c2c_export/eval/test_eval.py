"""``c2c-export eval`` on a tiny pair: what it writes, what it refuses, and that it goes on when stopped.

The models are random, so nothing is said of accuracy here; tests/benchmarks has a pair that knows
something. No times are asserted.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from baseline_bundles import PROMPT, baseline_bundle
from tiny_bundles import build, made_once, text_pair

from c2c_export.eval import answering
from c2c_export.eval.answering import Asker
from c2c_export.eval.items import Item
from c2c_runtime import Session
from c2c_runtime.answers.generation import GenerationOptions, sections_for_mode
from c2c_runtime.progress import unheard
from c2c_runtime.text.text_to_text import TextToText

OPTIONS = ["--threads", 1, "--max-new-tokens", 4]
EVIL = "<script>alert('x')</script> & \"co\""
ITEMS = [
    {"question": "Which is a metal?", "choices": ["Iron", "Wood"], "answer": "A", "group": "things"},
    {"question": EVIL, "choices": [EVIL, "b", "c"], "answer": 1, "group": "things"},
    {"question": "Capital of Japan?", "answer": ["Tokyo", "東京"], "group": "towns"},
    {"id": "own", "prompt": "The capital of France is", "answer": "Paris"},
    {"id": "chat", "messages": [{"role": "user", "content": "name a colour"}], "answer": "red"},
    {"question": "2 + 2?", "answer": 4},
    {"question": "Who?", "choices": ["Ada", "Bob", "Cleo", "Dan"], "answer": "D"},
    {"question": "Where?", "choices": ["here", "there"], "answer": "B", "system": "Be brief."},
]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    def make(directory):
        paths = text_pair(directory / "pair")
        build(paths, directory / "tiny.bundle", max_seq_len=384)

    return made_once(tmp_path_factory, "eval", make) / "tiny.bundle"


@pytest.fixture
def task(tmp_path):
    return task_file(tmp_path / "task.jsonl", ITEMS)


def task_file(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def essence(directory):
    """Everything of a report but times."""
    report = json.loads((directory / "report.json").read_text())
    timed = ("first_token_p50_s", "question_s", "stages")
    modes = {
        mode: {name: value for name, value in found.items() if name not in timed}
        for mode, found in report["modes"].items()
    }
    lines = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    outputs = {
        line["id"]: {
            mode: [found[name] for name in ("output", "answer", "num_tokens", "prompt_tokens", "scores")]
            for mode, found in line["answers"].items()
        }
        for line in lines[1:]
    }  # fmt: skip
    kept = ("run", "task", "versus_receiver", "agreement", "items")
    return modes, outputs, lines[0], {name: report[name] for name in kept}


@pytest.fixture(scope="module")
def undisturbed(bundle, tmp_path_factory):
    """What comes out when nothing stops it."""
    from c2c_export.eval.evaluate import EvalOptions, run_eval
    from c2c_export.eval.load_task import load_task

    folder = tmp_path_factory.mktemp("undisturbed")
    task = load_task(str(task_file(folder / "task.jsonl", ITEMS)))
    options = EvalOptions(max_new_tokens=4, num_threads=1)
    report = run_eval(bundle, task, folder, options, unheard)
    data = report.as_json()
    (folder / "report.json").write_text(json.dumps(data))
    return essence(folder)


def without_source(found):
    modes, outputs, header, rest = found
    return modes, outputs, header, {**rest, "task": {**rest["task"], "source": ""}}


def test_the_report_counts_what_was_answered(cli, bundle, task, tmp_path, undisturbed):
    called = cli("eval", bundle, "--task", task, *OPTIONS, "-o", tmp_path / "out", "--json")
    assert called.code == 0, called.err
    report = called.json
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert without_source(essence(tmp_path / "out")) == without_source(undisturbed)
    assert list(report["modes"]) == ["receiver", "c2c"]
    for mode, found in report["modes"].items():
        right = [item["answers"][mode]["is_right"] for item in report["items"]]
        accuracy = found["accuracy"]
        assert (accuracy["num_right"], accuracy["num_items"]) == (sum(right), len(ITEMS))
        low, high = accuracy["interval_95"]
        assert low <= accuracy["accuracy"] <= high
        assert {name: group["num_items"] for name, group in found["groups"].items()} == {"things": 2, "towns": 1}  # fmt: skip
        assert 1 <= found["num_tokens"] <= 4
        assert found["first_token_p50_s"] > 0
        assert found["stages"]["Receiver prefill"] > 0
        assert (found["stages"]["Sharer prefill"] > 0) == (found["stages"]["fuse"] > 0) == (mode == "c2c")  # fmt: skip
        assert found["question_s"] > found["stages"]["decode"] > 0
    versus = report["versus_receiver"]["c2c"]
    counts = [versus[name] for name in ("both", "only_first", "only_second", "neither")]
    assert sum(counts) == len(ITEMS)
    assert 0 <= versus["mcnemar_p"] <= 1
    (agreement,) = report["agreement"]
    answers = [item["answers"] for item in report["items"]]
    same = [a["c2c"]["answer"] is not None and a["c2c"]["answer"] == a["receiver"]["answer"] for a in answers]  # fmt: skip
    assert agreement["same_answer"] == sum(same) / len(ITEMS)


def test_the_two_modes_say_what_a_session_says(bundle, undisturbed):
    _, outputs, _, _ = undisturbed
    with Session.open(bundle, num_threads=1) as session:
        for mode in ("c2c", "receiver"):
            sections = session.sections_of_text("The capital of France is")
            options = answering.GenerationOptions(max_new_tokens=4, mode=mode)
            assert outputs["own"][mode][0] == session.answer(sections, options).finish().text
    assert any(found["c2c"][0] != found["receiver"][0] for found in outputs.values())


@pytest.mark.parametrize("seed", range(4))
def test_stopped_anywhere_and_resumed_it_comes_to_the_same(
    cli, bundle, task, tmp_path, monkeypatch, undisturbed, seed
):
    """Ctrl-C at a random answer, then a kill in the middle of a line, then to the end."""
    generator = random.Random(seed)
    out = tmp_path / "out"
    command = ("eval", bundle, "--task", task, *OPTIONS, "-o", out)
    num_asked, stop_at = 0, 2 + generator.randrange(1, 2 * len(ITEMS))
    ask = Asker.ask

    def stopping(self, item):
        nonlocal num_asked
        num_asked += 1
        if num_asked == stop_at:
            raise KeyboardInterrupt
        return ask(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(Asker, "ask", stopping)
        called = cli(*command)
    assert called.code == 130
    num_whole = (stop_at - 3) // 2
    assert f"stopped after {num_whole} of {len(ITEMS)} items" in called.err
    assert not (out / "report.json").exists()
    results = out / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + num_whole
    torn = lines[-1][: generator.randrange(len(lines[-1]))]
    results.write_bytes(b"".join(lines[:-1]) + torn)

    called = cli(*command)
    assert called.code == 0, called.err
    assert f"{max(num_whole - 1, 0)} of {len(ITEMS)} items" in called.err
    assert without_source(essence(out)) == without_source(undisturbed)


def test_killed_for_real(bundle, task, tmp_path, undisturbed, cli):
    out = tmp_path / "out"
    args = ["eval", bundle, "--task", task, *OPTIONS, "-o", out]
    code = (
        "import os, signal, sys\n"
        "from c2c_export.eval.answering import Asker\n"
        "ask = Asker.ask\n"
        "def dying(self, item):\n"
        "    if item.id == 'chat' and self._mode == 'c2c':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return ask(self, item)\n"
        "Asker.ask = dying\n"
        f"from c2c_export.cli import main; main({[str(arg) for arg in args]!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -9
    assert len((out / "results.jsonl").read_text().splitlines()) == 5
    assert cli(*args).code == 0
    assert without_source(essence(out)) == without_source(undisturbed)


def test_a_finished_run_asks_nothing_again(cli, bundle, task, tmp_path, monkeypatch):
    command = ("eval", bundle, "--task", task, *OPTIONS, "-o", tmp_path / "out")
    assert cli(*command).code == 0
    before = (tmp_path / "out" / "results.jsonl").read_bytes()

    def never(self, item):
        raise AssertionError("asked again")

    monkeypatch.setattr(Asker, "ask", never)
    assert cli(*command).code == 0
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    assert cli(*command, "--restart").code == 1


def test_results_of_another_run_are_not_mixed_in(cli, bundle, task, tmp_path):
    out = tmp_path / "out"
    command = ["eval", bundle, "--task", task, *OPTIONS, "-o", out]
    assert cli(*command, "--limit", 2).code == 0
    before = (out / "results.jsonl").read_bytes()
    called = cli(*command, "--limit", 3, "--mode", "receiver", "--max-new-tokens", 5)
    assert called.code == 2
    for what in ("task sha256", "num items was 2, now 3", "modes", "max new tokens was 4, now 5"):
        assert what in called.err
    assert "--restart" in called.err
    assert (out / "results.jsonl").read_bytes() == before
    assert cli(*command, "--limit", 3, "--restart").code == 0
    broken = (out / "results.jsonl").read_text().splitlines()
    broken[2] = broken[2].replace('"is_right"', '"is_wrong"')
    (out / "results.jsonl").write_text("\n".join(broken) + "\n")
    called = cli(*command, "--limit", 3)
    assert called.code == 3
    assert "line 3, is no result" in called.err
    (out / "results.jsonl").write_text("\n".join([*broken[:2], broken[1]]) + "\n")
    called = cli(*command, "--limit", 3)
    assert called.code == 3
    assert "line 3: item '1'" in called.err


@pytest.mark.parametrize("scoring", ["letter", "text"])
@pytest.mark.parametrize("mode", ["c2c", "receiver"])
@pytest.mark.parametrize("style", ["chat", "plain"])
def test_the_likeliest_option_is_the_answer(bundle, scoring, mode, style):
    """Against one prefill a token, from nothing."""
    item = Item("1", "Which town is the capital?", ("the capital", "Paris is", "Tokyo"), 2)
    with Session.open(bundle, num_threads=1) as session:
        options = GenerationOptions(max_new_tokens=4, mode=mode)
        asker = Asker(session, style, scoring, options)
        found = asker.ask(item)
        assert found.scores == asker.ask(item).scores
        prompt = answering.prompt_of(item, style, scoring)
        texts = answering.continuations(item, prompt, scoring)
        expected = []
        for text in texts:
            ids = answering.continuation_ids(session.tokenizer(), prompt, text)
            total = log_probability(session, prompt, mode, ids)
            expected.append(total / len(text.strip()) if scoring == "text" else total)
    assert found.scores == pytest.approx(expected, abs=1e-4)
    best = int(np.argmax(expected))
    assert found.answer == "ABC"[best]
    assert found.is_right == (best == 2)
    assert found.output == ""


def log_probability(session, prompt, mode, ids):
    sections = sections_for_mode(session.sections_of(prompt), mode)
    conversation = session.conversation()
    rows = [conversation.prefill(sections).copy()]
    rows += [conversation.decode([one]).copy() for one, _ in pairwise(ids)]
    wide = [row.astype(np.float64) for row in rows]
    return sum(row[i] - np.log(np.exp(row).sum()) for row, i in zip(wide, ids, strict=True))


def test_scoring_needs_options(cli, bundle, task, tmp_path):
    command = ("eval", bundle, "--task", task, *OPTIONS, "-o", tmp_path / "out")
    called = cli(*command, "--scoring", "letter")
    assert called.code == 2
    assert "some items of task have none" in called.err
    assert cli(*command, "--scoring", "letter", "--limit", 2).code == 0
    assert "likelihood of the option's letter" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("options", [["--mode", "t2t"], ["--mode", "sharer", "--mode", "c2c"]])
def test_modes_that_the_bundle_cannot_do(cli, bundle, task, tmp_path, options):
    called = cli("eval", bundle, "--task", task, "-o", tmp_path / "out", *options)
    assert called.code == 2
    assert f"cannot answer in mode {options[1]}" in called.err
    assert not (tmp_path / "out").exists()


def test_prompts_that_do_not_fit_are_named_before_anything_is_run(cli, bundle, tmp_path):
    items = [{"question": "short", "answer": "x"}, {"id": "long", "question": "a b " * 300, "answer": "x"}]  # fmt: skip
    called = cli(
        "eval", bundle, "--task", task_file(tmp_path / "t.jsonl", items), "-o", tmp_path / "o"
    )
    assert called.code == 3
    assert "1 of 2 items do not fit" in called.err
    assert "item long: " in called.err
    assert not (tmp_path / "o").exists()
    short = task_file(tmp_path / "t.jsonl", items[:1])
    called = cli("eval", bundle, "--task", short, "-o", tmp_path / "o", "--max-new-tokens", 380)
    assert called.code == 3
    assert "no room for the answer" in called.err


def test_no_bundle_and_the_folder_that_is_the_default(cli, bundle, task, tmp_path, monkeypatch):
    assert cli("eval", tmp_path / "none", "--task", task).code == 3
    monkeypatch.chdir(tmp_path)
    assert cli("eval", bundle, "--task", task, *OPTIONS, "--limit", 1).code == 0
    names = {path.name for path in (tmp_path / "task-tiny.eval").iterdir()}
    assert names == {"results.jsonl", "report.json", "report.md", "report.html"}


def test_the_page_shows_charts_and_escapes_what_models_and_tasks_wrote(
    cli, bundle, task, tmp_path, monkeypatch
):
    judge = answering.judge

    def judged(item, output):
        """The Receiver is right, C2C wrong, and the text is a trap."""
        del output
        return judge(item, f"{EVIL} B" if item.is_choice else EVIL)

    ask = Asker.ask

    def ask_evil(self, item):
        from dataclasses import replace

        found = ask(self, item)
        return replace(found, output=EVIL, answer=EVIL, is_right=self._mode == "receiver")

    monkeypatch.setattr(answering, "judge", judged)
    monkeypatch.setattr(Asker, "ask", ask_evil)
    out = tmp_path / "out"
    called = cli("eval", bundle, "--task", task, *OPTIONS, "-o", out)
    assert called.code == 0, called.err
    assert "8 of 8" in called.out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=|https?://|<script", page)
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;co&quot;" in page
    assert f"Items where modes differ: {len(ITEMS)} of {len(ITEMS)}" in page
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        ET.fromstring(chart)
        assert 'width="-' not in chart
        assert "nan" not in chart
    assert "Receiver alone: 100.0 % (67.6 to 100.0)" in charts[0]
    assert "C2C: 0.0 % (0.0 to 32.4)" in charts[0]
    for stage in ("Sharer prefill", "Receiver prefill", "fuse", "message", "decode"):
        assert f"C2C, {stage}: " in charts[1]
    assert page.count('<td class="share"') == 8
    report = json.loads((out / "report.json").read_text())
    assert report["versus_receiver"]["c2c"]["difference"] == -1.0
    assert report["versus_receiver"]["c2c"]["mcnemar_p"] == pytest.approx(2 / 2**8)
    words = (out / "report.md").read_text()
    assert "| Receiver alone | 8 of 8 | 100.0 % (67.6 to 100.0) |" in words
    assert "| C2C | -100.0 (" in words


def test_every_mode_of_a_bundle_with_baselines(cli, tmp_path, tmp_path_factory):
    speaking = baseline_bundle(tmp_path_factory) / "bundle"
    items = [{"prompt": PROMPT, "answer": "Paris"}, {"prompt": "One and one is", "answer": "two"}]
    task = task_file(tmp_path / "task.jsonl", items)
    words = (
        "--ask",
        "Help: {question}",
        "--tell",
        "{message} {question}",
        "--max-message-tokens",
        5,
    )
    command = ("eval", speaking, "--task", task, "-o", tmp_path / "out", "--max-new-tokens", 4)
    called = cli(*command, *words, "--json")
    assert called.code == 0, called.err
    assert list(called.json["modes"]) == ["receiver", "c2c", "sharer", "t2t"]
    asked = GenerationOptions(
        max_new_tokens=4,
        mode="t2t",
        text_to_text=TextToText("Help: {question}", "{message} {question}", 5),
    )
    with Session.open(speaking) as session:
        alone = session.sharer().ask(PROMPT, GenerationOptions(max_new_tokens=4)).finish()
        told = session.ask(PROMPT, asked).finish()
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    first = json.loads(lines[1])["answers"]
    assert first["sharer"]["output"] == alone.text
    assert first["t2t"]["output"] == told.text
    assert first["t2t"]["stages"]["message"] > 0
    assert first["t2t"]["prompt_tokens"] == told.prompt_tokens > first["receiver"]["prompt_tokens"]
    other = cli(*command, "--max-message-tokens", 6)
    assert other.code == 2
    assert "text to text was" in other.err
