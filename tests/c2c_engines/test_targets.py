"""What a backend can build for is known before a build, and said with a way out."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from engine_graphs import DTYPES

from c2c_engines import targets
from c2c_engines.library import TensorRTLibrary, load_library
from c2c_engines.targets import check_precision, parse_target, resolve_targets
from c2c_runtime.bundle.manifest import GraphSpec, TensorSpec
from c2c_runtime.errors import UnavailableError, UsageError


def rtx() -> TensorRTLibrary:
    """TensorRT-RTX 1.7 as far as it is asked here, so that these tests need none."""
    members = ("NONE", "CURRENT", "SM121", "SM75", "SM80", "SM86", "SM89", "SM120")
    return TensorRTLibrary(
        "tensorrt-rtx",
        "1.7.1.116",
        SimpleNamespace(
            IBuilderConfig=SimpleNamespace(set_compute_capability=None),
            ComputeCapability=SimpleNamespace(__members__=dict.fromkeys(members)),
            INetworkDefinition=SimpleNamespace(add_kv_cache_update=None, add_attention=None),
        ),
    )


def classic(version: str, *layers: str) -> TensorRTLibrary:
    network = SimpleNamespace(**dict.fromkeys(layers))
    module = SimpleNamespace(IBuilderConfig=SimpleNamespace(), INetworkDefinition=network)
    return TensorRTLibrary("tensorrt", version, module)


def graph(dtype: str = "float16", first: str = "token_ids") -> GraphSpec:
    assert dtype in DTYPES
    inputs = (
        TensorSpec(first, "int64", ("batch", "tokens")),
        TensorSpec("past.0.key", dtype, ("batch", 2, 64, 32)),
    )
    return GraphSpec("receiver", "tensorrt", "graphs/tensorrt/receiver.onnx", inputs, (), 1)


def no_gpu() -> str:
    raise UnavailableError("no GPU is here (for a test)", "")


@pytest.mark.parametrize("text", ["sm89", "SM89", "sm_89", "8.9", " 89 "])
def test_a_target_may_be_written_in_several_ways(text):
    assert parse_target(text) == "sm89"


def test_compute_capability_12_has_three_digits():
    assert parse_target("12.0") == parse_target("sm120") == "sm120"


@pytest.mark.parametrize("text", ["cpu", "cuda", "sm", "sm9", "sm8900", "8.99", ""])
def test_what_is_no_target_is_a_usage_error(text):
    with pytest.raises(UsageError, match="smNN"):
        parse_target(text)


def test_rtx_builds_for_what_the_library_names_in_order():
    assert rtx().nameable_targets == ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
    assert resolve_targets(rtx(), ("sm120", "8.6", "sm120")) == ("sm120", "sm86")


@pytest.mark.parametrize("target", ["sm87", "sm90"])
def test_rtx_refuses_orin_and_hopper_and_names_the_way_out(target):
    with pytest.raises(UnavailableError, match=f"cannot build for {target}.*sm121") as refusal:
        resolve_targets(rtx(), (target,))
    assert "--backend tensorrt`" in refusal.value.remedy


def test_no_target_is_the_gpu_that_is_here(monkeypatch):
    monkeypatch.setattr(targets, "current_target", lambda: "sm86")
    assert resolve_targets(rtx(), ()) == ("sm86",)
    assert resolve_targets(rtx(), ("current", "sm86", "sm89")) == ("sm86", "sm89")


def test_no_target_and_no_gpu_is_refused_with_the_option_that_helps(monkeypatch):
    monkeypatch.setattr(targets, "current_target", no_gpu)
    with pytest.raises(UnavailableError, match="no GPU is here"):
        resolve_targets(rtx(), ())


def test_classic_builds_only_for_the_gpu_that_is_here(monkeypatch):
    backend = classic("10.15.1")
    monkeypatch.setattr(targets, "current_target", lambda: "sm87")
    assert resolve_targets(backend, ()) == resolve_targets(backend, ("sm87",)) == ("sm87",)
    with pytest.raises(UnavailableError, match="that is sm87, not sm89") as refusal:
        resolve_targets(backend, ("sm89",))
    assert "tensorrt-rtx" in refusal.value.remedy
    monkeypatch.setattr(targets, "current_target", no_gpu)
    with pytest.raises(UnavailableError, match="only for the GPU that is present, and no GPU"):
        resolve_targets(backend, ("sm87",))


@pytest.mark.parametrize(
    ("target", "precision", "dtype", "missing"),
    [
        ("sm75", "bf16", "bfloat16", "bf16"),
        ("sm75", "int4", "float16", "int4"),
        ("sm75", "int8", "bfloat16", "bf16"),
        ("sm86", "fp8", "float16", "fp8"),
        ("sm89", "fp8", "float16", None),
        ("sm120", "int4", "bfloat16", None),
        ("sm75", "int8", "float16", None),
    ],
)
def test_a_type_that_a_target_lacks_is_refused(target, precision, dtype, missing):
    if missing is None:
        check_precision(rtx(), target, precision, graph(dtype))
        return
    with pytest.raises(UnavailableError, match=f"{target} has no {missing}") as refusal:
        check_precision(rtx(), target, precision, graph(dtype))
    assert "--precision" in refusal.value.remedy


def test_fp32_has_no_fused_attention_so_only_a_fuser_may_be_fp32():
    with pytest.raises(UnavailableError, match="no fused attention in fp32"):
        check_precision(rtx(), "sm89", "fp32", graph("float32"))
    check_precision(rtx(), "sm89", "fp32", graph("float32", first="slots"))


def test_the_dialect_follows_what_the_library_can():
    assert rtx().dialect == "tensorrt"
    assert classic("10.15", "add_attention", "add_kv_cache_update").dialect == "tensorrt"
    assert classic("10.14", "add_attention").dialect == "tensorrt-scatter"
    assert classic("10.3").dialect == "tensorrt-scatter"


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_backend_that_is_not_installed_names_the_command(monkeypatch, name):
    def missing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UnavailableError, match="not installed here") as refusal:
        load_library(name)
    assert f"pip install 'c2c-export[{name}]'" in refusal.value.remedy


def test_a_backend_that_does_not_load_or_is_too_old_is_refused(monkeypatch):
    def broken(module):
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UnavailableError, match=r"does not load: libnvinfer"):
        load_library("tensorrt")
    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(UnavailableError, match=r"8\.6\.1 is too old: 10\.3"):
        load_library("tensorrt")


def test_strongly_typed_is_a_flag_where_there_is_one_and_else_the_only_way():
    given = []
    builder = SimpleNamespace(create_network=given.append)
    for members in ({"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, {}):
        flags = SimpleNamespace(__members__=members)
        module = SimpleNamespace(NetworkDefinitionCreationFlag=flags)
        TensorRTLibrary("tensorrt", "10.3", module).create_network(builder)
    assert given == [2, 0]


@pytest.mark.gpu
def test_the_gpu_of_this_machine_has_a_compute_capability():
    assert parse_target(targets.current_target()) == targets.current_target()
