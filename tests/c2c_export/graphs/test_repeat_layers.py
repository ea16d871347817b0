"""A graph whose layers are repeated is the graph of a trace of all layers, operator by operator."""

from __future__ import annotations

from itertools import cycle

import pytest
from graph_forms import graph_form
from tiny_models import ARCHITECTURE_CONFIGS, tiny_model

from c2c_export.graphs import export_model
from c2c_export.graphs.export_model import export_receiver, export_sharer
from c2c_export.lowering.graph_options import GraphOptions
from c2c_export.reading.checkpoints import load_model, model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_runtime.bundle.manifest import Limits
from c2c_runtime.bundle.precision import GraphPrecision

LIMITS = Limits(max_seq_len=32, max_prompt_len=16, max_batch_size=2, max_positions=64)
OPTIONS = {
    "ort": GraphOptions(limits=LIMITS),
    "tensorrt": GraphOptions("tensorrt", GraphPrecision("fp16"), LIMITS),
    "tensorrt-scatter": GraphOptions("tensorrt-scatter", GraphPrecision("fp32"), LIMITS),
}
# Windows alternate in Gemma 3 (five local, one global), rotary embeddings in SmolLM3 (every fourth has none).
LAYERS = {"gemma3_text": 7, "smollm3": 5}
MOST_TRACED = {"gemma3_text": 2, "smollm3": 2}
# Every architecture in one dialect, those whose layers differ in all, and Sharers, whose last layer does.
CASES = sorted(
    {(a, d, "receiver") for a, d in zip(ARCHITECTURE_CONFIGS, cycle(OPTIONS), strict=False)}
    | {(architecture, dialect, "receiver") for architecture in MOST_TRACED for dialect in OPTIONS}
    | {("qwen2", "ort", "sharer1"), ("gemma3_text", "tensorrt", "sharer1")}
    | {("phi3", "tensorrt-scatter", "sharer1")}
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        architecture: resolve_model(
            str(tiny_model(root / architecture, architecture, layers=LAYERS.get(architecture, 3)))
        )
        for architecture in ARCHITECTURE_CONFIGS
    }


@pytest.fixture
def traced(monkeypatch):
    """How many layers were traced, trace by trace."""
    found = []

    def counting(*args):
        kinds = layer_kinds(*args)
        found.append(len(set(kinds)))
        return kinds

    layer_kinds = export_model.layer_kinds
    monkeypatch.setattr(export_model, "layer_kinds", counting)
    return found


def export(source, role, directory, options):
    dims = model_dims(read_config(source), source)
    model = load_model(source, "c2c")
    if role == "receiver":
        export_receiver(model, dims, directory, options)
    else:
        export_sharer(model, dims, dims.num_layers, role, directory, options)
    return graph_form(directory / f"{role}.onnx"), (directory / f"{role}.onnx.data").read_bytes()


@pytest.mark.parametrize(("architecture", "dialect", "role"), CASES)
def test_repeated_layers_are_those_of_a_whole_trace(
    tmp_path, monkeypatch, traced, sources, architecture, dialect, role
):
    source, options = sources[architecture], OPTIONS[dialect]
    form, data = export(source, role, tmp_path / "repeated", options)
    most = MOST_TRACED.get(architecture, 1) + (role != "receiver")
    assert traced == [most]
    monkeypatch.setattr(export_model, "layer_kinds", lambda layers, *_: list(range(len(layers))))
    whole_form, whole_data = export(source, role, tmp_path / "whole", options)
    assert form == whole_form
    assert data == whole_data
