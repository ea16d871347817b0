"""Profiles cover what the runtime asks of an engine, and are refused where they do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from c2c_engines.profiles import check_profiles, profiles_for
from c2c_runtime.bundle.manifest import GraphSpec, Limits, ProfileSpec, TensorSpec
from c2c_runtime.errors import InputError

CACHE = ("batch", 2, 64, 32)
LIMITS = Limits(max_seq_len=2048, max_prompt_len=1024, max_batch_size=4)


def graph(role: str = "receiver") -> GraphSpec:
    inputs = (
        TensorSpec("token_ids", "int64", ("batch", "tokens")),
        TensorSpec("positions", "int64", ("batch", "tokens")),
        TensorSpec("past_length", "int64", ("batch",)),
        TensorSpec("past.0.key", "float16", CACHE),
        TensorSpec("fixed", "int64", (3,)),
    )
    return GraphSpec(role, "tensorrt", f"graphs/tensorrt/{role}.onnx", inputs, (), 1)


def fuser() -> GraphSpec:
    inputs = (
        TensorSpec("past.0.key", "float16", CACHE),
        TensorSpec("sharer1.0.key", "float16", CACHE),
        TensorSpec("slots", "int64", ("tokens",)),
        TensorSpec("sharer1.slots", "int64", ("tokens",)),
    )
    return GraphSpec("fuser", "tensorrt", "graphs/tensorrt/fuser.onnx", inputs, (), 1)


def test_a_receiver_has_a_profile_for_one_token_and_one_for_prompts():
    decode, prefill = profiles_for(graph(), LIMITS)
    assert (decode.name, prefill.name) == ("decode", "prefill")
    assert decode.shapes["token_ids"] == ((1, 1), (1, 1), (4, 1))
    assert prefill.shapes["token_ids"] == ((1, 1), (1, 256), (4, 1024))
    assert prefill.shapes["past_length"] == ((1,), (1,), (4,))
    assert decode.shapes["past.0.key"] == ((1, 2, 64, 32), (1, 2, 64, 32), (4, 2, 64, 32))
    assert "fixed" not in decode.shapes


def test_a_backend_may_need_more_rows_than_the_limits_allow():
    single = replace(LIMITS, max_batch_size=1)
    decode, prefill = profiles_for(graph(), single)
    assert decode.shapes["token_ids"] == ((1, 1), (1, 1), (1, 1))
    decode, prefill = profiles_for(graph(), single, min_max_batch=2)
    assert decode.shapes["token_ids"] == ((1, 1), (1, 1), (2, 1))
    assert prefill.shapes["token_ids"][2] == (2, 1024)
    assert profiles_for(graph(), LIMITS, min_max_batch=2) == profiles_for(graph(), LIMITS)


def test_a_sharer_has_prefill_alone_and_a_short_prompt_is_its_own_optimum():
    (prefill,) = profiles_for(graph("sharer2"), replace(LIMITS, max_prompt_len=16))
    assert prefill.name == "prefill"
    assert prefill.shapes["positions"] == ((1, 1), (1, 16), (4, 16))


def test_a_fuser_takes_a_prompt_or_a_whole_section():
    (chunk,) = profiles_for(fuser(), LIMITS)
    assert (chunk.name, chunk.shapes["slots"]) == ("fuse", ((1,), (256,), (1024,)))
    (whole,) = profiles_for(fuser(), LIMITS, max_section_len=2048)
    assert whole.shapes["sharer1.slots"][2] == (2048,)


@pytest.mark.parametrize("spec", [graph(), graph("sharer1"), fuser()], ids=lambda g: g.role)
def test_what_is_made_passes_the_check(spec):
    check_profiles(spec, profiles_for(spec, LIMITS))


def test_a_dimension_without_a_range_is_named():
    odd = replace(graph(), inputs=(TensorSpec("mask", "bool", ("batch", "heads")),))
    with pytest.raises(InputError, match="mask of the graph receiver has the dimension heads"):
        profiles_for(odd, LIMITS)


def changed(name: str, shapes: object) -> ProfileSpec:
    (_, prefill) = profiles_for(graph(), LIMITS)
    return replace(prefill, shapes=prefill.shapes | {name: shapes})


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (changed("past_ids", ((1,), (1,), (1,))), "past_ids is no input"),
        (changed("past_length", ((1, 1), (1, 1), (4, 1))), "has 1 dimensions, the profile gives 2"),
        (
            changed("past.0.key", ((1, 2, 1, 32), (1, 2, 64, 32), (4, 2, 64, 32))),
            "is 64 in dimension 2, the profile gives 1, 64, 64",
        ),
        (changed("past_length", ((2,), (1,), (4,))), r"has 2, 1, 4 in dimension 0 \(batch\)"),
        (changed("past_length", ((0,), (1,), (4,))), "has 0, 1, 4"),
        (changed("past_length", ((1,), (1,), (2,))), "batch is 2 in past_length but 4 in .*max"),
        (
            changed("positions", ((1, 1), (1, 128), (4, 1024))),
            r"tokens is 128 in positions but 256 in token_ids \(opt\)",
        ),
        (ProfileSpec("prefill", {}), "token_ids has no shapes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(profile, says):
    with pytest.raises(InputError, match=says):
        check_profiles(graph(), (profile,))


def test_every_problem_is_listed():
    bad = changed("past_length", ((0,), (1,), (2,)))
    bad = replace(bad, shapes=bad.shapes | {"nothing": ((1,), (1,), (1,))})
    with pytest.raises(InputError) as refusal:
        check_profiles(graph(), (bad, bad))
    causes = [problem.cause for problem in refusal.value.problems]
    assert any("nothing is no input" in cause for cause in causes)
    assert any("has 0, 1, 2" in cause for cause in causes)
    assert any("two profiles have one name" in cause for cause in causes)


def test_no_profile_for_shapes_that_are_not_fixed_is_refused():
    with pytest.raises(InputError, match="there is no profile"):
        check_profiles(graph(), ())
