"""Batches: every row equals its single run, whatever stands in the other rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interrupts import interrupt_run, interrupted_line
from tiny_bundles import build, made_once
from tiny_models import tiny_pair

from c2c_runtime.answers import batch as batch_file
from c2c_runtime.answers.batch import Batch, answer_batch
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.answers.sampling import SamplingOptions
from c2c_runtime.answers.session import Session
from c2c_runtime.errors import CapacityError

LENGTHS = (7, 1, 40, 2, 23)  # the window of 16 tokens is passed by some


@pytest.fixture(scope="module", params=["qwen3", "mistral"])
def session(request, tmp_path_factory):
    def make(directory: Path) -> None:
        paths = tiny_pair(directory, request.param, "qwen2", receiver={"layers": 2})
        build(paths, directory / "bundle", max_seq_len=64, max_prompt_len=16, max_batch_size=3)

    with Session.open(made_once(tmp_path_factory, f"batch_{request.param}", make) / "bundle") as s:
        yield s


def prompts_of(session):
    random = np.random.default_rng(1)
    return [session.sections_of_ids(random.integers(3, 256, n).tolist()) for n in LENGTHS]


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(max_new_tokens=20, ignore_eos=True),
        GenerationOptions(max_new_tokens=20, mode="receiver"),
        GenerationOptions(max_new_tokens=20, sampling=SamplingOptions(temperature=0.8, seed=3)),
    ],
    ids=["greedy", "receiver alone", "sampled"],
)
def test_every_row_equals_its_single_run(session, options):
    prompts = prompts_of(session)
    single = [session.answer(prompt, options).finish() for prompt in prompts]
    batch = Batch(session)
    for buffer in batch._buffers.buffers.values():
        buffer.fill(np.nan)
    together = answer_batch(session, prompts, options, batch)
    for alone, row in zip(single, together, strict=True):
        assert row.token_ids == alone.token_ids
        assert row.finish_reason == alone.finish_reason
        assert row.prompt_tokens == alone.prompt_tokens


def test_rows_that_finish_early_cost_no_more_steps(session, monkeypatch):
    """Rows end at different steps; a step runs as many rows as are still at work."""
    prompts = prompts_of(session)[:3]
    answers = [session.answer(p, GenerationOptions(max_new_tokens=20, ignore_eos=True)).finish() for p in prompts]  # fmt: skip
    # Let the first row's fifth token be the EOS id of this bundle.
    eos = answers[0].token_ids[4]
    manifest = session.bundle.manifest
    object.__setattr__(manifest, "eos_ids", (eos,))
    sizes: list[int] = []
    decode = Batch.decode
    monkeypatch.setattr(
        Batch, "decode", lambda self, ids: (sizes.append(len(ids)), decode(self, ids))[1]
    )
    try:
        options = GenerationOptions(max_new_tokens=20)
        together = answer_batch(session, prompts, options)
        single = [session.answer(prompt, options).finish() for prompt in prompts]
    finally:
        object.__setattr__(manifest, "eos_ids", (2,))
    assert [row.token_ids for row in together] == [row.token_ids for row in single]
    assert together[0].finish_reason == "eos"
    assert len(together[0].token_ids) <= 5
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == sum(row.timings.decode_steps for row in together)


def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(session, monkeypatch):
    monkeypatch.setattr(Batch, "prefill", lambda *_: pytest.fail("something ran"))
    prompts = [*prompts_of(session)[:1], session.sections_of_ids([5] * 65)]
    with pytest.raises(CapacityError, match="64 tokens"):
        answer_batch(session, prompts)


def test_no_prompts_no_answers(session):
    assert answer_batch(session, []) == []


def test_a_step_that_was_interrupted_leaves_every_row(session):
    """All rows as they were, or all one token longer."""
    prompts = prompts_of(session)[:3]
    batch = Batch(session)
    for row, prompt in enumerate(prompts):
        batch.prefill(row, prompt)
    before = [row.length for row in batch.rows]
    states = [row.state() for row in batch.rows]
    expected = [row.copy() for row in batch.decode([5, 6, 7])]
    for number in range(200):
        for row, state in zip(batch.rows, states, strict=True):
            row.go_back(state)
        try:
            with interrupted_line(number, Path(batch_file.__file__).parent):
                found = batch.decode([5, 6, 7])
        except KeyboardInterrupt:
            more = {row.length - held for row, held in zip(batch.rows, before, strict=True)}
            assert more in ({0}, {1})
        else:
            np.testing.assert_array_equal([row.copy() for row in found], expected)
            assert number > 10
            return


@pytest.mark.parametrize("fails_at", [0, 4, 9, 15])
def test_buffers_of_a_batch_that_failed_can_be_used_again(session, monkeypatch, fails_at):
    prompts, options = prompts_of(session), GenerationOptions(max_new_tokens=6)
    batch = Batch(session)
    expected = [row.token_ids for row in answer_batch(session, prompts, options)]
    interrupt_run(monkeypatch, fails_at)
    with pytest.raises(KeyboardInterrupt):
        answer_batch(session, prompts, options, batch)
    monkeypatch.undo()
    again = answer_batch(session, prompts, options, batch)
    assert [row.token_ids for row in again] == expected
