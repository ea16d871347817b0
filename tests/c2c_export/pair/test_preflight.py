"""Whether parts fit together: one test for each way in which they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint, FuserLayerSpec
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_export.pair.preflight import TokenizerFacts, check_pair
from c2c_export.pair.published import PUBLISHED, published_with_shape
from c2c_runtime.bundle.manifest import Limits, ModelDims

RECEIVER = ModelDims("qwen3", 28, 8, 128, 151936, 40960, None, "bfloat16")
SHARER = ModelDims("qwen2", 24, 2, 64, 151936, 32768, None, "bfloat16")
SHAPE = FuserShape(sharer_heads=2, sharer_dim=64, receiver_heads=8, receiver_dim=128)
SAME = TokenizerFacts(receiver=True, sharers=(True,), same_ids=(True,))
OTHER = TokenizerFacts(receiver=True, sharers=(True,), same_ids=(False,))


def fuser(shape=SHAPE, links=None, layers=28):
    specs = {
        index: FuserLayerSpec("C2CProjector", {}, Path(f"projector_{index}.pt"), shape, True, True)
        for index in range(layers)
    }
    aligned = {t: (max(t - 4, 0), t) for t in range(layers)}
    return FuserCheckpoint(Path("fuser/final"), {}, specs, aligned if links is None else links)


def the_problem(*args, **kwargs):
    problems = check_pair(*args, **kwargs)
    assert len(problems) == 1, problems
    assert problems[0].remedy
    return problems[0]


def test_a_published_pair_fits():
    limits = Limits(max_seq_len=2048, max_prompt_len=1024)
    assert check_pair(RECEIVER, [SHARER], [fuser()], tokenizers=SAME, limits=limits) == []


def test_swapped_roles_are_found_on_both_sides():
    causes = [p.cause for p in check_pair(SHARER, [RECEIVER], [fuser()])]
    assert any("names layer 24, 25, 26, 27 of the Receiver, which has 24 layers" in c for c in causes)  # fmt: skip
    assert any("expects Sharer 2 x 64, Receiver 8 x 128" in cause for cause in causes)


def test_a_sharer_layer_out_of_range():
    links = {0: (23, 0), 1: (24, 1)}
    problem = the_problem(RECEIVER, [SHARER], [fuser(links=links)])
    assert "layer 24 of Sharer 1, which has 24 layers (0 to 23)" in problem.cause
    assert "swapped" in problem.remedy


def test_a_receiver_layer_out_of_range():
    problem = the_problem(RECEIVER, [SHARER], [fuser(links={28: (0, 0)})])
    assert "layer 28 of the Receiver" in problem.cause


@pytest.mark.parametrize(
    ("side", "field", "value", "found"),
    [
        ("sharer", "num_kv_heads", 14, "Sharer 14 x 64, Receiver 8 x 128"),
        ("sharer", "head_dim", 128, "Sharer 2 x 128, Receiver 8 x 128"),
        ("receiver", "num_kv_heads", 16, "Sharer 2 x 64, Receiver 16 x 128"),
        ("receiver", "head_dim", 64, "Sharer 2 x 64, Receiver 8 x 64"),
    ],
)
def test_head_sizes_that_do_not_fit_name_both_and_the_published_pair(side, field, value, found):
    receiver = replace(RECEIVER, **{field: value}) if side == "receiver" else RECEIVER
    sharer = replace(SHARER, **{field: value}) if side == "sharer" else SHARER
    problem = the_problem(receiver, [sharer], [fuser()])
    assert str(SHAPE) in problem.cause
    assert found in problem.cause
    assert "Qwen/Qwen3-0.6B" in problem.remedy
    assert "Qwen/Qwen2.5-0.5B-Instruct" in problem.remedy


def test_sizes_of_no_published_pair_have_a_remedy_too():
    problem = the_problem(RECEIVER, [SHARER], [fuser(FuserShape(1, 2, 3, 4))])
    assert "trained with" in problem.remedy


def test_a_single_layer_of_another_shape_is_named():
    checkpoint = fuser()
    layers = dict(checkpoint.layers)
    layers[5] = replace(layers[5], shape=FuserShape(2, 64, 4, 128))
    problem = the_problem(RECEIVER, [SHARER], [replace(checkpoint, layers=layers)])
    assert "(projector 5)" in problem.cause


def test_no_sharer():
    assert "there is no Sharer" in the_problem(RECEIVER, [], []).cause


def test_more_sharers_than_fusers():
    problem = the_problem(RECEIVER, [SHARER, SHARER], [fuser()])
    assert "2 Sharer(s), but 1 Fuser(s)" in problem.cause
    assert "--fuser" in problem.remedy


def test_the_second_sharer_is_checked_against_the_second_fuser():
    wrong = replace(SHARER, head_dim=128)
    problem = the_problem(RECEIVER, [SHARER, wrong], [fuser(), fuser()])
    assert "Sharer 2" in problem.cause


def test_no_alignment_between_other_tokenizers():
    problem = the_problem(RECEIVER, [SHARER], [fuser()], alignment="none", tokenizers=OTHER)
    assert "--alignment none" in problem.cause
    assert "--alignment longest" in problem.remedy


@pytest.mark.parametrize("alignment", ["auto", "first", "longest"])
def test_other_tokenizers_can_be_aligned(alignment):
    assert check_pair(RECEIVER, [SHARER], [fuser()], alignment=alignment, tokenizers=OTHER) == []


@pytest.mark.parametrize(
    ("receiver", "sharer", "missing"),
    [
        (False, True, "the Receiver"),
        (True, False, "Sharer 1"),
        (False, False, "the Receiver and Sharer 1"),
    ],
)
def test_alignment_without_a_tokenizer(receiver, sharer, missing):
    facts = TokenizerFacts(receiver, (sharer,), (None,))
    problem = the_problem(RECEIVER, [SHARER], [fuser()], alignment="longest", tokenizers=facts)
    assert f"{missing} has none" in problem.cause
    assert "tokenizer.json" in problem.remedy


@pytest.mark.parametrize("alignment", ["auto", "none"])
def test_a_smaller_sharer_vocabulary_without_tokenizers(alignment):
    small = replace(SHARER, vocab_size=32000)
    problem = the_problem(RECEIVER, [small], [fuser()], alignment=alignment)
    assert "Receiver 151936, Sharer 32000" in problem.cause


def test_padded_embeddings_of_one_tokenizer_are_no_mismatch():
    padded = replace(SHARER, vocab_size=151936 - 128)
    assert check_pair(RECEIVER, [padded], [fuser()], alignment="none", tokenizers=SAME) == []


def test_the_same_ids_cannot_be_read_by_a_sharer_that_does_not_have_them_all():
    """Tokens that were added to the Receiver alone: an error of the build, not of some prompts."""
    small = replace(SHARER, vocab_size=151668)
    for num_ids, num_problems in ((151669, 1), (151668, 0)):
        facts = replace(SAME, num_receiver_ids=num_ids)
        for alignment in ("none", "auto", "longest"):
            found = check_pair(RECEIVER, [small], [fuser()], alignment=alignment, tokenizers=facts)
            assert len(found) == (num_problems if alignment == "none" else 0)
            assert all("151668" in p.cause and "auto" in p.remedy for p in found)


def test_without_tokenizers_equal_vocabularies_pass():
    assert check_pair(RECEIVER, [SHARER], [fuser()]) == []


@pytest.mark.parametrize(
    ("limits", "cause", "remedy"),
    [
        (Limits(40960, 512), "32768 positions that Sharer 1", "--max-seq-len 32768"),
        (Limits(1024, 1025), "--max-prompt-len 1025 is above --max-seq-len 1024", "1024 or less"),
        (Limits(1024, 0), "--max-prompt-len is 0", "1 or more"),
        (Limits(1024, 8, 0), "--max-batch-size is 0", "1 or more"),
    ],
)
def test_limits(limits, cause, remedy):
    problem = the_problem(RECEIVER, [SHARER], [fuser()], limits=limits)
    assert cause in problem.cause
    assert remedy in problem.remedy


def test_both_models_positions_are_looked_at():
    limits = Limits(100_000, 512)
    causes = [p.cause for p in check_pair(RECEIVER, [SHARER], [fuser()], limits=limits)]
    assert len(causes) == 2
    assert "the Receiver" in causes[0]


def test_models_that_state_no_positions_have_no_limit():
    free = replace(SHARER, max_positions=None)
    assert check_pair(RECEIVER, [free], [fuser()], limits=Limits(40960, 512)) == []


def test_every_problem_is_found_at_once():
    wrong = replace(SHARER, head_dim=32, vocab_size=100, num_layers=3)
    problems = check_pair(
        RECEIVER, [wrong], [fuser()], alignment="longest", limits=Limits(99_999, 100_000)
    )
    assert len(problems) == 6


def test_the_published_table_is_that_of_the_collection():
    assert len(PUBLISHED) == 7
    pair = PUBLISHED["qwen3_0.6b+qwen2.5_0.5b"]
    assert pair.fuser_folder == "qwen3_0.6b+qwen2.5_0.5b_Fuser"
    assert pair in published_with_shape(SHAPE)
    sizes = {name: (p.shape.sharer_heads, p.shape.sharer_dim) for name, p in PUBLISHED.items()}
    assert sizes["qwen3_0.6b+llam3.2_1b"] == (8, 64)
    assert sizes["qwen3_8b+qwen2.5_7b"] == (4, 128)
