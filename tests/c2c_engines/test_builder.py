"""Engines are built with no GPU, hold what was asked for, and say why when they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from engine_graphs import (
    ModelSize,
    request_of,
    requires_rtx,
    write_fuser,
    write_receiver,
    write_sharer,
)

from c2c_engines import builder
from c2c_engines.builder import build_engine
from c2c_engines.library import load_library
from c2c_engines.profiles import profiles_for
from c2c_runtime.bundle.manifest import Limits
from c2c_runtime.errors import BundleError, InputError, UnavailableError

pytestmark = requires_rtx


def receiver(folder, *, target="sm89", precision="fp16", size=None, fields=None, **changes):
    """The request for a Receiver written to ``folder``."""
    graph = write_receiver(folder / "receiver.onnx", size, **changes)
    return request_of(graph, folder, target, precision, **(fields or {}))


@pytest.mark.parametrize(
    ("target", "precision", "dtype"),
    [
        ("sm75", "fp16", "float16"),
        ("sm86", "fp16", "float16"),
        ("sm89", "fp16", "float16"),
        ("sm120", "fp16", "float16"),
        ("sm86", "bf16", "bfloat16"),
        ("sm89", "bf16", "bfloat16"),
        ("sm120", "bf16", "bfloat16"),
    ],
)
def test_a_receiver_is_built_for_targets_that_are_not_here(tmp_path, target, precision, dtype):
    size = ModelSize(layers=2, dtype=dtype)
    request = receiver(tmp_path, target=target, precision=precision, size=size)
    report = build_engine(request)
    assert (tmp_path / "receiver.engine").stat().st_size == report.size_bytes > 0
    assert (report.role, report.target) == ("receiver", target)
    assert report.network.num_kv_updates == 2 * size.layers
    assert report.network.num_attentions == size.layers
    assert not any(attention.may_decompose for attention in report.network.attentions)
    assert report.network.num_rotary == 2 * size.layers
    assert report.network.cache_casts == ()
    assert report.warnings == ()
    assert len(report.activation_bytes) == 2  # one a profile
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "receiver.engine",
        "receiver.onnx",
        "receiver.onnx.data",
    ]


def test_a_sharer_ends_at_the_keys_and_values_of_its_last_layer(tmp_path):
    graph = write_sharer(tmp_path / "sharer1.onnx", ModelSize(layers=3))
    network = build_engine(request_of(graph, tmp_path)).network
    assert (network.num_kv_updates, network.num_attentions) == (6, 2)


def test_a_fuser_updates_the_caches_of_its_receiver_in_place(tmp_path):
    graph = write_fuser(tmp_path / "fuser.onnx", ModelSize(layers=2))
    network = build_engine(request_of(graph, tmp_path)).network
    assert network.num_kv_updates == 4
    assert all(update.past.startswith("past.") for update in network.kv_updates)


def test_engine_sizes_show_the_precision_of_the_weights(tmp_path):
    """Two layers of 512: the more is packed, the smaller; int4 is a quarter of fp16 and scales."""
    sizes = {}
    for precision in ("fp16", "int8", "int4", "fp8"):
        weights = None if precision == "fp16" else precision
        size = ModelSize(hidden=512, heads=8, head_dim=64, intermediate=1024, weights=weights)
        request = receiver(tmp_path, precision=precision, size=size)
        # One profile: where there are two, TensorRT-RTX keeps two layouts of fp16 weights.
        limits = Limits(max_seq_len=64, max_prompt_len=32)
        prefill = profiles_for(request.graph, limits)[1]
        report = build_engine(replace(request, profiles=(prefill,)))
        sizes[precision] = report.weights_bytes
        stored = {"fp16": "HALF", "int8": "INT8", "int4": "INT4", "fp8": "FP8"}[precision]
        elements = report.network.weight_elements()
        assert elements[stored] > 0.9 * sum(elements.values())
    rest = 320 * 512 * 2 * 2  # the embedding and the head of 320 tokens stay fp16
    body = {name: size - rest for name, size in sizes.items()}
    assert body["int8"] / body["fp16"] == pytest.approx(0.5, abs=0.08)
    assert body["fp8"] / body["fp16"] == pytest.approx(0.5, abs=0.08)
    assert body["int4"] / body["fp16"] == pytest.approx(0.28, abs=0.08)


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_range_of_rows_keeps_weights_once_and_packed(tmp_path, precision):
    """What ``TensorRTLibrary.min_max_batch`` says of TensorRT-RTX. If this fails, it may no longer be needed."""
    weights = None if precision == "fp16" else precision
    size = ModelSize(hidden=1024, heads=8, head_dim=128, intermediate=2048, weights=weights)
    request = receiver(tmp_path, precision=precision, size=size)
    profiles = profiles_for(
        request.graph,
        Limits(max_seq_len=64, max_prompt_len=32),
        min_max_batch=load_library("tensorrt-rtx").min_max_batch,
    )
    narrow, wide = build_engine(request), build_engine(replace(request, profiles=profiles))
    stored = sum(wide.network.constant_bytes.values())
    assert wide.weights_bytes < 1.1 * stored
    if precision == "fp16":
        assert narrow.weights_bytes > 1.7 * stored
    else:
        unpacked_bytes = 2 * wide.network.weight_elements()[precision.upper()]
        assert narrow.activation_bytes[0] > unpacked_bytes
        assert wide.activation_bytes[0] < 0.8 * unpacked_bytes


def test_progress_goes_from_0_to_1_and_never_back(tmp_path):
    said = []
    build_engine(receiver(tmp_path), lambda fraction, phase: said.append((fraction, phase)))
    fractions = [fraction for fraction, _ in said]
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)
    assert len(fractions) > 10
    assert "read the graph" in dict(map(reversed, said))


@pytest.mark.parametrize(
    ("target", "precision", "size", "says"),
    [
        ("sm75", "bf16", ModelSize(dtype="bfloat16"), "sm75 has no bf16"),
        ("sm75", "int4", ModelSize(weights="int4"), "sm75 has no int4"),
        ("sm86", "fp8", ModelSize(weights="fp8"), "sm86 has no fp8"),
        ("sm90", "fp16", ModelSize(), "cannot build for sm90"),
        ("sm89", "fp32", ModelSize(dtype="float32"), "no fused attention in fp32"),
    ],
)
def test_what_a_target_cannot_is_refused_with_exit_5(tmp_path, target, precision, size, says):
    request = receiver(tmp_path, target=target, precision=precision, size=size)
    with pytest.raises(UnavailableError, match=says) as refusal:
        build_engine(request)
    assert refusal.value.exit_code == 5
    assert refusal.value.remedy
    assert not (tmp_path / "receiver.engine").exists()


def test_profiles_that_do_not_fit_are_refused_before_the_build(tmp_path):
    request = receiver(tmp_path)
    decode, prefill = request.profiles
    shapes = decode.shapes | {"positions": ((1, 2), (1, 2), (1, 2))}
    with pytest.raises(InputError, match="tokens is 2 in positions but 1 in token_ids"):
        build_engine(replace(request, profiles=(replace(decode, shapes=shapes), prefill)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scatter": False}, "4 of 4 caches have no KV update that writes them in place"),
        ({"attention": False}, "0 fused attentions of 2"),
        ({"cast_cache": True}, "a whole cache is cast to another type.*node"),
    ],
    ids=["no KV update", "attention written out", "cast cache"],
)
def test_a_network_that_is_not_what_was_asked_for_is_refused(tmp_path, changes, says):
    with pytest.raises(BundleError, match=says) as refusal:
        build_engine(receiver(tmp_path, **changes))
    assert refusal.value.exit_code == 3
    assert "the network of receiver" in str(refusal.value)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp8"])
def test_a_graph_that_is_not_quantised_is_no_quantised_engine(tmp_path, precision):
    """As where a tool takes --int4 and builds fp16 all the same."""
    with pytest.raises(BundleError, match=rf"14 products .* not {precision.upper()} \(100%"):
        build_engine(receiver(tmp_path, precision=precision))


def test_a_few_layers_that_were_forgotten_are_noticed(tmp_path):
    with pytest.raises(BundleError, match=r"products have weights that are not HALF"):
        build_engine(receiver(tmp_path, size=ModelSize(weights="int8")))


def test_the_parser_s_error_names_the_node(tmp_path):
    with pytest.raises(
        BundleError, match=r"node\.frobnicate_\d+ \(Frobnicate\): .*Plugin not found"
    ):
        build_engine(receiver(tmp_path, unknown_operator=True))


@pytest.mark.parametrize("missing", ["receiver.onnx", "receiver.onnx.data"])
def test_a_file_that_is_missing_is_named(tmp_path, missing):
    request = receiver(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(BundleError, match=missing.replace(".", r"\.")):
        build_engine(request)


def test_tensorrt_s_own_words_are_in_the_error_of_a_failed_build(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "check_precision", lambda *_: None)
    request = receiver(tmp_path, target="sm75", precision="bf16", size=ModelSize(dtype="bfloat16"))
    with pytest.raises(UnavailableError, match=r"TensorRT: .*HW-specific datatypes") as refusal:
        build_engine(request)
    assert "the engine of receiver for sm75" in refusal.value.cause
    assert not (tmp_path / "receiver.engine").exists()


def test_an_interrupt_ends_the_build_and_leaves_no_file(tmp_path):
    def interrupt(fraction, phase):
        if fraction > 0.02:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(receiver(tmp_path), interrupt)
    assert not list(tmp_path.glob("*.engine*"))


def test_the_workspace_of_the_request_is_the_limit(tmp_path, monkeypatch):
    """And no number of this project's: without one, the library's own stays."""
    limits = []
    configure = builder._configure

    def spy(backend, config, request):
        configure(backend, config, request)
        limits.append(config.get_memory_pool_limit(backend.module.MemoryPoolType.WORKSPACE))

    monkeypatch.setattr(builder, "_configure", spy)
    request = receiver(tmp_path, fields={"workspace_bytes": 3 * 2**30})
    build_engine(request)
    build_engine(replace(request, workspace_bytes=None))
    assert limits[0] == 3 * 2**30
    assert limits[1] > limits[0] or limits[1] == 0


def test_rtx_has_no_timing_cache_and_says_so(tmp_path):
    cache = tmp_path / "timing.cache"
    report = build_engine(receiver(tmp_path, fields={"timing_cache_path": str(cache)}))
    assert report.timing_cache == "none"
    assert not cache.exists()


@pytest.mark.gpu
def test_where_the_gpu_is_here_the_engine_is_looked_into(tmp_path):
    from c2c_engines.targets import current_target

    assert build_engine(receiver(tmp_path, target=current_target())).inspected


def test_a_file_takes_the_place_of_one_that_is_there(tmp_path, monkeypatch):
    """Timings that were copied before the build. On Windows a rename refuses that."""

    def as_on_windows(self, target):
        raise FileExistsError(target)

    monkeypatch.setattr(Path, "rename", as_on_windows)
    path = tmp_path / "timing.cache"
    path.write_bytes(b"old")
    builder._write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [*tmp_path.iterdir()] == [path]
