"""Tasks: files with every broken line named, adapters of published data sets, and prompts."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
from small_tokenizers import byte_level, exported

from c2c_export.eval.hub_tasks import (
    HUB_TASKS,
    arc_item,
    ceval_item,
    mmlu_redux_item,
    openbookqa_item,
)
from c2c_export.eval.items import Item, Task
from c2c_export.eval.load_task import load_task
from c2c_export.eval.prompts import continuation_ids, continuations, prompt_of
from c2c_export.eval.task_file import SCHEMA, read_task_file
from c2c_runtime.errors import InputError

METALS = {"question": "Which is a metal?", "choices": ["Iron", "Wood"], "answer": "A"}


def write(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def test_what_a_line_may_say(tmp_path):
    example = {"question": "Which is wet?", "choices": ["Sand", "Water"], "answer": 1}
    file = write(
        tmp_path / "task.jsonl",
        METALS,
        "",
        METALS | {"answer": 1, "id": "second", "group": "chemistry", "system": "Be brief.", "examples": [example]},
        {"question": "Who?", "answer": "Ada"},
        {"question": "How many?", "answer": 4},
        {"question": "Where?", "answer": ["Rome", "Roma"]},
        {"prompt": "1. yes 2. no:", "choices": ["yes", "no"], "labels": ["1", "2"], "answer": "2"},
        {"messages": [{"role": "user", "content": "Say yes."}], "answer": "yes"},
    )  # fmt: skip
    task = read_task_file(file)
    items = {item.id: item for item in task.items}
    assert list(items) == ["1", "second", "4", "5", "6", "7", "8"]
    assert items["1"].answer == 0
    assert items["1"].expected == "A: Iron"
    assert items["second"].answer == 1
    assert items["second"].examples[0].answer == "B"
    assert items["second"].group == "chemistry"
    assert items["5"].accepted == ("4",)
    assert items["6"].accepted == ("Rome", "Roma")
    assert items["7"].answer == 1
    assert items["7"].question == "1. yes 2. no:"
    assert items["8"].messages == (("user", "Say yes."),)
    assert task.name == "task"


BROKEN = [
    ('{"question": "q", "answer": ', "no JSON"),
    ("[1]", "no JSON object but list"),
    ({"answer": "x"}, "question is missing"),
    ({"question": "q"}, "answer: is missing"),
    ({"question": " ", "answer": "x"}, "question: is empty"),
    (METALS | {"choices": ["x"]}, "choices: list should have at least 2 items"),
    (METALS | {"choices": ["x"] * 27}, "choices: list should have at most 26 items"),
    (METALS | {"choices": ["x", 3]}, "choices 2: should be text"),
    (METALS | {"answer": "C"}, "answer 'C' is no letter or number (from 0) of 2 choices"),
    (METALS | {"answer": 2}, "answer 2 is no letter or number (from 0) of 2 choices"),
    (METALS | {"answer": ["A"]}, "is no letter or number"),
    (METALS | {"answer": 1.5}, "answer: should be text"),
    (METALS | {"anwser": "A"}, "anwser: is no field"),
    (METALS | {"labels": ["1", "2"]}, "labels name choices in prompt or messages"),
    (METALS | {"prompt": "p", "labels": ["1", "1"]}, "2 choices need 2 different labels"),
    (METALS | {"prompt": "p", "messages": [{"role": "user", "content": "c"}]}, "give one of them"),
    (METALS | {"prompt": "p", "system": "s"}, "system and examples belong into prompt"),
    (METALS | {"messages": [{"role": "robot", "content": "c"}]}, "messages 1, role: "),
    (METALS | {"examples": [{"question": "z"}]}, "examples 1, answer: is missing"),
    (METALS | {"examples": [METALS | {"answer": "Z"}]}, "example 1: answer 'Z'"),
]


@pytest.mark.parametrize(("line", "says"), BROKEN)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path, line, says):
    with pytest.raises(InputError) as caught:
        read_task_file(write(tmp_path / "task.jsonl", METALS, line))
    assert says in str(caught.value)
    assert "line 2: " in str(caught.value)
    assert "line 1" not in str(caught.value)


def test_every_broken_line_is_named_and_nothing_is_run(cli, tmp_path):
    lines = [line for pair in BROKEN for line in (METALS, pair[0])]
    called = cli("eval", tmp_path / "no.bundle", "--task", write(tmp_path / "task.jsonl", *lines))
    assert called.code == 3
    for number in range(1, len(lines) + 1):
        assert (f"  - line {number}: " in called.err) == (number % 2 == 0), number
    assert f"{len(BROKEN)} of {len(lines)} lines are broken" in called.err
    assert list(tmp_path.iterdir()) == [tmp_path / "task.jsonl"]


def test_ids_are_different(tmp_path):
    with pytest.raises(InputError, match=r"line 3: id '1' is that of line 1, too"):
        read_task_file(write(tmp_path / "t.jsonl", METALS, METALS, METALS | {"id": 1}))


def test_files_that_are_no_task(cli, tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"question": "café", "answer": "a"}'.encode("latin-1"))
    assert cli("eval", "x", "--task", tmp_path / "latin.jsonl").code == 3
    assert cli("eval", "x", "--task", write(tmp_path / "empty.jsonl", "")).code == 3
    called = cli("eval", "x", "--task", "hellaswag")
    assert called.code == 2
    assert "arc-challenge" in called.err


def test_the_help_states_what_a_line_holds(cli):
    shown = cli("eval", "--help").out
    assert all(line.strip() in shown for line in SCHEMA.splitlines())


def test_a_sample_keeps_the_order_and_follows_the_seed():
    task = Task("t", "t", tuple(Item(str(number), "q", accepted=("a",)) for number in range(50)))
    ids = [item.id for item in task.sampled(10, 3).items]
    assert ids == sorted(ids, key=int)
    assert ids == [item.id for item in task.sampled(10, 3).items]
    assert ids != [item.id for item in task.sampled(10, 4).items]
    assert [item.id for item in task.sampled(3, None).items] == ["0", "1", "2"]
    assert task.sampled(99, 3) is task
    assert task.sampled(10, 3).sha256 != task.sampled(10, 4).sha256 != task.sha256


# Rows as the data sets have them: their columns, invented content.

MMLU_REDUX = {
    "question": "Which gland makes insulin?",
    "choices": ["Liver", "Pancreas", "Thyroid", "Spleen"],
    "answer": 1,
    "error_type": "ok",
    "source": None,
    "correct_answer": None,
    "potential_reason": None,
}
ARC = {
    "id": "Made_Up_1",
    "question": "What melts?",
    "choices": {"text": ["rock", "ice", "wood"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
OPENBOOKQA = {
    "id": "7-1",
    "question_stem": "A plant grows toward",
    "choices": {"text": ["light", "noise", "salt", "wind"], "label": ["A", "B", "C", "D"]},
    "answerKey": "A",
}
CEVAL = {
    "id": 0,
    "question": "水的化学式是____",
    "A": "CO2",
    "B": "NaCl",
    "C": "H2O",
    "D": "O2",
    "answer": "C",
    "explanation": "",
}


def test_mmlu_redux():
    item = mmlu_redux_item(MMLU_REDUX, 3, "anatomy")
    assert item == Item("anatomy/3", MMLU_REDUX["question"], tuple(MMLU_REDUX["choices"]), 1, group="anatomy")  # fmt: skip
    assert mmlu_redux_item(MMLU_REDUX | {"error_type": "wrong_groundtruth"}, 3, "anatomy") is None


def test_arc():
    item = arc_item(ARC, 0, "ARC-Challenge")
    assert item == Item("Made_Up_1", "What melts?", ("rock", "ice", "wood"), 1)
    numbered = {"text": ["a", "b", "c", "d"], "label": ["1", "2", "3", "4"]}
    item = arc_item(ARC | {"choices": numbered, "answerKey": "4"}, 0, "ARC-Challenge")
    assert item.answer == 3
    assert item.option_labels == ("A", "B", "C", "D")


def test_openbookqa():
    item = openbookqa_item(OPENBOOKQA, 0, "main")
    assert (item.id, item.question, item.answer) == ("7-1", "A plant grows toward", 0)


def test_ceval():
    item = ceval_item(CEVAL, 5, "chemistry")
    assert (item.id, item.choices[item.answer], item.group) == ("chemistry/5", "H2O", "chemistry")
    assert ceval_item(CEVAL | {"answer": ""}, 5, "chemistry") is None


def stand_in(monkeypatch, rows=(), error=None):
    """A package ``datasets`` that gives ``rows`` in every subset, or raises."""
    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split))
        if error is not None:
            raise error
        return list(rows)

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.get_dataset_config_names = lambda path: ["anatomy", "virology"]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_all_subjects_or_one(monkeypatch):
    asked = stand_in(monkeypatch, [MMLU_REDUX, MMLU_REDUX | {"error_type": "no_correct_answer"}])
    task = load_task("mmlu-redux")
    assert [item.id for item in task.items] == ["anatomy/0", "virology/0"]
    assert task.num_skipped == 2
    assert "error_type is not ok" in task.why_skipped
    assert load_task("mmlu-redux:virology").name == "mmlu-redux-virology"
    assert asked[-1] == ("edinburgh-dawg/mmlu-redux-2.0", "virology", "test")


@pytest.mark.parametrize(
    ("name", "row", "asks"),
    [
        ("arc-challenge", ARC, ("allenai/ai2_arc", "ARC-Challenge", "test")),
        ("openbookqa", OPENBOOKQA, ("allenai/openbookqa", "main", "test")),
        ("c-eval:law", CEVAL, ("ceval/ceval-exam", "law", "val")),
    ],
)
def test_what_is_asked_of_the_hub(monkeypatch, name, row, asks):
    asked = stand_in(monkeypatch, [row])
    assert len(load_task(name).items) == 1
    assert asked == [asks]


@pytest.mark.parametrize("name", HUB_TASKS)
def test_without_the_package_a_file_is_asked_for(cli, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "datasets", None)
    called = cli("eval", "x", "--task", name)
    assert called.code == 5
    assert "pip install 'c2c-export[eval]'" in called.err
    assert '{"question": "Which is a metal?"' in called.err


@pytest.mark.parametrize("error", [ConnectionError("no route"), OSError("offline"), RuntimeError("client closed")])  # fmt: skip
def test_offline_a_file_is_asked_for(cli, monkeypatch, error):
    stand_in(monkeypatch, error=error)
    called = cli("eval", "x", "--task", "arc-challenge")
    assert called.code == 5
    assert str(error) in called.err
    assert "give a JSONL file instead" in called.err


def test_a_data_set_with_other_columns_is_no_bug_of_ours(cli, monkeypatch):
    stand_in(monkeypatch, [ARC, {"question": "q"}])
    called = cli("eval", "x", "--task", "arc-challenge")
    assert called.code == 3
    assert "row 1" in called.err
    stand_in(monkeypatch, [CEVAL | {"answer": ""}])
    called = cli("eval", "x", "--task", "c-eval:law")
    assert called.code == 3
    assert "no item with an answer" in called.err


# Prompts


def test_a_chat_and_a_plain_prompt(tmp_path):
    example = {"question": "Which is wet?", "choices": ["Sand", "Water"], "answer": "B"}
    line = METALS | {"system": "Be brief.", "examples": [example]}
    (item,) = read_task_file(write(tmp_path / "t.jsonl", line)).items
    chat = prompt_of(item, "chat")
    assert [message["role"] for message in chat] == ["system", "user", "assistant", "user"]
    assert chat[2]["content"] == "B"
    assert chat[3]["content"] == (
        "Which is a metal?\nA. Iron\nB. Wood\n\n"
        "Reply with the letter of the right option and nothing else."
    )
    plain = prompt_of(item, "plain")
    assert plain.startswith(
        "Be brief.\n\nQuestion: Which is wet?\nA. Sand\nB. Water\nAnswer: B\n\n"
    )
    assert plain.endswith("nothing else.\nAnswer:")
    by_text = prompt_of(item, "chat", "text")
    assert by_text[2]["content"] == "Water"
    assert "text of the right option" in by_text[3]["content"]


def test_short_answers_and_own_prompts():
    short = Item("1", "Who?", accepted=("Ada",))
    assert prompt_of(short, "plain") == (
        "Question: Who?\nReply with the answer in a few words and nothing else.\nAnswer:"
    )
    own = Item("1", "q", accepted=("Ada",), prompt="Who? It was")
    assert prompt_of(own, "chat") == prompt_of(own, "plain") == "Who? It was"
    said = Item("1", "q", accepted=("Ada",), messages=(("user", "Who?"),))
    assert prompt_of(said, "plain") == [{"role": "user", "content": "Who?"}]


def test_continuations_are_letters_or_texts():
    item = Item("1", "q", ("Iron", "Wood"), 0)
    assert continuations(item, "Answer:", "letter") == [" A", " B"]
    assert continuations(item, "Answer: ", "text") == ["Iron", "Wood"]
    assert continuations(item, [{"role": "user", "content": "q"}], "text") == ["Iron", "Wood"]


def test_tokens_of_a_continuation_are_those_that_it_adds(tmp_path):
    tokenizer = exported(byte_level(), tmp_path)
    ids = continuation_ids(tokenizer, "The capital is", " Paris")
    assert tokenizer.encode("The capital is") + ids == tokenizer.encode("The capital is Paris")
    # Where both together are other tokens, it is encoded alone.
    assert continuation_ids(tokenizer, "The capita", "l") == tokenizer.encode("l")
