import pytest

from c2c_runtime.bundle import names
from c2c_runtime.bundle.precision import GraphPrecision, parse_precision
from c2c_runtime.errors import UsageError


@pytest.mark.parametrize(
    "text",
    ["fp32", "fp16", "bf16", "int8", "int4", "fp8", "fp16,receiver=int4", "int4,fuser=fp16,sharer2=int8"],
)  # fmt: skip
def test_what_was_said_is_said_again(text):
    assert str(parse_precision(text)) == text


def test_a_role_has_its_own_else_that_of_all_sharers_else_the_default():
    precision = parse_precision("int4, sharer=int8, sharer2=fp8, fuser=fp16")
    assert precision.of("receiver") == GraphPrecision("fp16", "int4")
    assert precision.of("sharer1") == GraphPrecision("fp16", "int8")
    assert precision.of("sharer2") == GraphPrecision("fp16", "fp8")
    assert precision.of("fuser") == GraphPrecision("fp16", None)
    for number in (1, 2):  # a Sharer that speaks
        assert precision.of(names.baseline(number)) == precision.of(names.sharer(number))
    assert precision.activations == "fp16"
    assert precision.lossiest == "int4"


def test_roles_that_are_not_named_compute_like_the_rest():
    precision = parse_precision("receiver=int4,sharer=int8")
    assert precision.of("fuser") == GraphPrecision("fp16")
    assert parse_precision("receiver=bf16").of("sharer1") == GraphPrecision("bf16")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fp12", "'fp12' is none of fp32, fp16, bf16, int8, int4, fp8"),
        ("", "'' is none of"),
        ("fp16,", "'' is none of"),
        ("fp16,int8", "two defaults"),
        ("teacher=fp16", "'teacher' is no role"),
        ("sharerx=fp16", "'sharerx' is no role"),
        ("receiver=fp16,receiver=fp16", "receiver twice"),
        ("fp32,receiver=fp16", "fp16 and fp32 cannot share caches"),
        ("bf16,receiver=int4", "bf16 and fp16 cannot share caches"),
    ],
)
def test_nonsense_is_refused_with_its_reason(text, why):
    with pytest.raises(UsageError) as caught:
        parse_precision(text)
    assert why in str(caught.value)
    assert "fp16,receiver=int4" in str(caught.value)
