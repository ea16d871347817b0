"""The knowledge pair, through the compiled bundle: only what crosses the caches can answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from benchmarks.knowledge_pair.compiled import MAX_NEW_TOKENS, build_bundles
from benchmarks.knowledge_pair.conditions import CONDITIONS
from benchmarks.knowledge_pair.eager import EagerPair
from benchmarks.knowledge_pair.evaluate import Row, as_json, as_table, evaluate
from benchmarks.knowledge_pair.facts import CITIES, make_facts, read_facts, strangers
from benchmarks.knowledge_pair.fusers import all_fusers
from benchmarks.knowledge_pair.paths import Parts
from benchmarks.knowledge_pair.scores import Score
from benchmarks.knowledge_pair.task import task_lines
from benchmarks.knowledge_pair.train import make_pair
from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.bundle.bundle import read_manifest

MAX_BYTES = 10_000_000


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    directory = tmp_path_factory.mktemp("knowledge")
    return build_bundles(Parts(), all_fusers(Parts(), directory), directory)


@pytest.fixture(scope="module")
def rows(bundles, tmp_path_factory) -> dict[str, Row]:
    """Every condition, on every held-out fact."""
    fusers = all_fusers(Parts(), tmp_path_factory.mktemp("eager"))
    facts = read_facts(Parts().facts, "held_out")
    found = evaluate(facts, bundles, EagerPair(Parts(), fusers))
    return {row.condition.key: row for row in found}


def test_c2c_answers_facts_that_neither_the_receiver_nor_the_fuser_has_seen(rows):
    assert rows["c2c"].compiled.num_items == 400
    assert rows["c2c"].compiled.accuracy >= 0.98


@pytest.mark.parametrize("key", ["receiver", "closed", "control", "stranger"])
def test_without_the_sharers_cache_of_the_question_nobody_answers(rows, key):
    assert rows[key].compiled.num_items == 400
    assert rows[key].compiled.accuracy <= 0.05


def test_with_the_cache_of_another_question_the_answer_is_that_questions(rows):
    assert rows["stranger_city"].compiled.accuracy >= 0.98


def test_the_receiver_can_answer_what_it_is_told(rows):
    assert rows["told"].compiled.accuracy >= 0.98


def test_text_to_text_answers_too(rows):
    assert rows["t2t"].compiled.accuracy >= 0.98
    assert rows["t2t"].question_s > 0


def test_few_bits_lose_little(rows):
    assert rows["int8"].compiled.accuracy >= rows["c2c"].compiled.accuracy - 0.02


def test_eval_finds_the_same_on_the_command_line(cli, bundles, tmp_path):
    facts = read_facts(Parts().facts, "held_out")
    task = tmp_path / "facts.jsonl"
    task.write_text("".join(f"{line}\n" for line in task_lines(facts)))
    called = cli(
        "eval", bundles["fuser", "fp32"], "--task", task, "--mode", "c2c", "--mode", "receiver", "--limit", 40,
        "--seed", 0, "--max-new-tokens", MAX_NEW_TOKENS, "--threads", 1, "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert called.code == 0, called.err
    report = called.json
    assert len(report["items"]) == 40
    assert report["modes"]["c2c"]["accuracy"]["accuracy"] >= 0.98
    assert report["modes"]["receiver"]["accuracy"]["accuracy"] <= 0.1
    low, high = report["versus_receiver"]["c2c"]["interval_95"]
    assert 0.7 < low < high <= 1.0
    assert report["versus_receiver"]["c2c"]["mcnemar_p"] < 1e-6


@pytest.mark.parametrize("key", [condition.key for condition in CONDITIONS])
def test_eager_pytorch_answers_alike(rows, key):
    row = rows[key]
    assert abs(row.eager.accuracy - row.compiled.accuracy) <= 0.01
    assert row.num_differing <= 4


def test_the_prompt_reaches_the_sharer_through_an_alignment_table(bundles):
    manifest = read_manifest(bundles["fuser", "fp32"])
    assert manifest.precision == "fp32"
    assert [sharer.alignment for sharer in manifest.pair.sharers] == ["longest"]


def test_the_report_has_every_condition_with_its_interval(rows):
    table = as_table(list(rows.values()))
    assert "| Receiver alone |" in table
    assert table.count(" % (") == 2 * len(CONDITIONS)
    c2c = as_json(list(rows.values()))["c2c"]["compiled"]
    low, high = c2c["interval_95"]
    assert low < c2c["accuracy"] <= high


def test_the_committed_files_are_those_that_were_measured_and_are_small():
    assert Parts().hashes() == Parts().checksums.read_text("utf-8")
    assert sum(path.stat().st_size for path in Parts().files()) <= MAX_BYTES


def test_no_city_is_a_better_guess_than_another_and_no_person_is_in_two_splits():
    facts = read_facts(Parts().facts)
    assert facts == make_facts(seed=0)
    assert len({fact.name for fact in facts}) == len(facts) == 1800
    for split, count in (("train", 28), ("held_out", 8)):
        homes = Counter(fact.city for fact in facts if fact.split == split)
        assert homes == dict.fromkeys(CITIES, count)


def test_a_stranger_lives_elsewhere():
    facts = read_facts(Parts().facts, "held_out")
    assert all(a.city != b.city for a, b in zip(facts, strangers(facts), strict=True))


@pytest.mark.parametrize(
    ("num_right", "num_items", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)  # fmt: skip
def test_intervals_are_wilsons(num_right, num_items, low, high):
    assert Score(num_right, num_items).interval == pytest.approx((low, high), abs=1e-4)


def test_the_script_makes_every_part_of_a_pair(tmp_path):
    parts = Parts(tmp_path / "pair")
    make_pair(parts, seed=0, model_steps=2, fuser_steps=2)
    assert parts.hashes() == parts.checksums.read_text("utf-8")
    for made, committed in ((parts.receiver, Parts().receiver), (parts.sharer, Parts().sharer)):
        source, known = (resolve_model(str(directory)) for directory in (made, committed))
        load_model(source)
        assert model_dims(read_config(source), source) == model_dims(read_config(known), known)
    trained, control = (
        read_fuser(path).load_layers().values() for path in (parts.fuser, parts.control)
    )
    for layer, other in zip(trained, control, strict=True):
        assert layer.key_gate
        assert layer.value_gate
        assert any(
            not torch.equal(a, b)
            for a, b in zip(layer.parameters(), other.parameters(), strict=True)
        )
