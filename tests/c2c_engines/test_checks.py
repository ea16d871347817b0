"""What is asked of a network and of a finished engine, on summaries made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from c2c_engines.checks import check_network, check_size, expected_of, unpacking_warning
from c2c_engines.inspection import Inspection, check_inspection
from c2c_engines.summary import Attention, KVUpdate, NetworkSummary, ProductWeight
from c2c_runtime.bundle.manifest import GraphSpec, ProfileSpec, TensorSpec
from c2c_runtime.errors import BundleError, VerificationError

NUM_LAYERS = 3
MIB = 2**20


def graph(role="receiver", dialect="tensorrt", dtype="bfloat16"):
    shape = ("batch", 2, 64, 32)
    names = [f"{layer}.{kind}" for layer in range(NUM_LAYERS) for kind in ("key", "value")]
    ids = TensorSpec("token_ids", "int64", ("batch", "tokens"))
    logits = TensorSpec("logits", "float32", ("batch", 1000))
    past = tuple(TensorSpec(f"past.{name}", dtype, shape) for name in names)
    present = tuple(TensorSpec(f"present.{name}", dtype, shape) for name in names)
    inputs = past if role == "fuser" else (ids, *past)
    outputs = (logits, *present) if role == "receiver" else present
    return GraphSpec(role, dialect, f"graphs/{dialect}/{role}.onnx", inputs, outputs, 1)


def summary(**changes):
    names = [f"{layer}.{kind}" for layer in range(NUM_LAYERS) for kind in ("key", "value")]
    good = NetworkSummary(
        inputs={f"past.{name}": "BF16" for name in names},
        outputs={f"present.{name}": "BF16" for name in names},
        layer_counts={},
        kv_updates=tuple(KVUpdate(name, f"past.{name}", f"present.{name}") for name in names),
        attentions=tuple(Attention(f"attention.{i}", False) for i in range(NUM_LAYERS)),
        product_weights=(ProductWeight("mlp", "BF16", (64, 256)),),
        constant_bytes={"BF16": 10 * MIB},
        cache_casts=(),
    )
    return replace(good, **changes)


def test_what_is_as_expected_passes():
    check_network(summary(), expected_of(graph(), "bf16"), "receiver")


def test_caches_that_are_written_crosswise_are_not_in_place():
    first, second, *rest = summary().kv_updates
    crossed = (replace(first, present=second.present), replace(second, present=first.present))
    with pytest.raises(BundleError, match=r"2 of 6 caches .* past\.0\.key, past\.0\.value"):
        check_network(
            summary(kv_updates=(*crossed, *rest)), expected_of(graph(), "bf16"), "receiver"
        )


def test_many_caches_are_counted_and_a_few_named():
    with pytest.raises(BundleError, match=r"6 of 6 caches .*past\.1\.value and 2 more"):
        check_network(summary(kv_updates=()), expected_of(graph(), "bf16"), "receiver")


def test_a_cache_of_another_type_is_refused():
    with pytest.raises(BundleError, match=r"caches that are not HALF: past\.0\.key \(BF16\)"):
        check_network(summary(), expected_of(graph(dtype="float16"), "bf16"), "receiver")


@pytest.mark.parametrize(("role", "needed"), [("receiver", 3), ("sharer1", 2), ("fuser", 0)])
def test_attentions_by_role(role, needed):
    expected = expected_of(graph(role), "bf16")
    assert expected.min_attentions == needed
    check_network(summary(attentions=summary().attentions[:needed]), expected, role)
    if needed:
        with pytest.raises(BundleError, match=f"{needed - 1} fused attentions of {needed}"):
            check_network(summary(attentions=summary().attentions[1:needed]), expected, role)


def test_an_attention_that_may_be_taken_apart_is_refused():
    loose = (*summary().attentions[1:], Attention("attention.0", True))
    with pytest.raises(BundleError, match=r"attention\.0 may be taken apart"):
        check_network(summary(attentions=loose), expected_of(graph(), "bf16"), "receiver")


def test_the_older_dialect_has_neither_kv_updates_nor_attentions():
    expected = expected_of(graph(dialect="tensorrt-scatter"), "bf16")
    check_network(summary(kv_updates=(), attentions=()), expected, "receiver")


def test_the_head_may_be_of_another_type_and_the_rest_may_not():
    head = ProductWeight("head", "BF16", (64, 1000))
    body = ProductWeight("mlp", "INT4", (64, 256))
    expected = expected_of(graph(), "int4")
    check_network(summary(product_weights=(head, body)), expected, "receiver")
    forgotten = ProductWeight("forgotten", "BF16", (64, 64))
    with pytest.raises(BundleError, match=r"1 products .* not INT4 \(20% of all\), as forgotten"):
        check_network(summary(product_weights=(head, body, forgotten)), expected, "receiver")


def test_a_fuser_need_not_be_quantised_but_is_never_fp32():
    expected = expected_of(graph("fuser"), "int4")
    check_network(summary(attentions=()), expected, "fuser")
    wide = (ProductWeight("projector", "FLOAT", (64, 64)),)
    with pytest.raises(BundleError, match="not of less than fp32"):
        check_network(summary(attentions=(), product_weights=wide), expected, "fuser")


def test_unpacked_weights_show_in_the_size():
    """512 MiB of int4 that became fp16 while the engine was built."""
    packed = summary(constant_bytes={"INT4": 512 * MIB, "HALF": 64 * MIB})
    check_size(700 * MIB, packed, 2, "receiver")
    with pytest.raises(VerificationError, match="precision is not in it") as refusal:
        check_size(4 * 512 * MIB + 64 * MIB, packed, 2, "receiver")
    assert "2112.0 MiB" in refusal.value.cause
    assert "576.0 MiB" in refusal.value.cause


def test_weights_that_are_unpacked_at_every_step_are_warned_of():
    """Figures of a model of 135 million parameters in int8, built with and without."""
    body = (ProductWeight("mlp", "INT8", (106_000, 1000)),)
    profiles = (ProfileSpec("decode", {}), ProfileSpec("prefill", {}))
    network = summary(product_weights=body)
    warning = unpacking_warning(network, profiles, (199_300_000, 24_400_000))
    assert warning is not None
    assert "190 MiB of scratch" in warning
    assert unpacking_warning(network, profiles, (24_600_000, 199_300_000)) is None
    assert unpacking_warning(network, profiles, ()) is None
    plain = summary(product_weights=(ProductWeight("mlp", "HALF", (106_000, 1000)),))
    assert unpacking_warning(plain, profiles, (199_300_000, 24_400_000)) is None


def test_a_layout_a_profile_of_plain_weights_is_no_surprise():
    check_size(2 * 512 * MIB, summary(constant_bytes={"HALF": 512 * MIB}), 2, "receiver")


def test_an_engine_whose_caches_are_not_aliased_is_refused():
    expected = expected_of(graph(), "bf16")
    aliases = {present: past for past, present in expected.caches.items()}
    check_inspection(Inspection(aliases, ()), expected, "receiver")
    del aliases["present.1.key"]
    with pytest.raises(
        VerificationError, match=r"present\.1\.key is not the memory of past\.1\.key"
    ):
        check_inspection(Inspection(aliases, ()), expected, "receiver")
