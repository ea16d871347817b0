"""Fuser layers that compute alike are traced once; each keeps its own weights, gates and options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from c2c_export.fusers.fuser import C2CFuserLayer
from c2c_export.fusers.fuser_all_in_one import AllInOneFuserLayer
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_export.graphs import export_fuser
from c2c_runtime.backends.ort_backend import OrtGraph
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import LayerLink, ModelDims, Pair, SharerLink

SHAPE = FuserShape(2, 4, 2, 6)
OPEN = ("key", "value")
CAPACITY, TOKENS = 16, 5


def c2c_layer(seed, is_open=OPEN, num_layers=3):
    torch.manual_seed(seed)
    layer = C2CFuserLayer(SHAPE, 7, 9, num_layers)
    gates = {
        f"{kind}_gate_logit": torch.tensor(1.0 if kind in is_open else -1.0) for kind in names.KINDS
    }
    layer.load_state_dict(layer.state_dict() | gates)
    return layer.eval().requires_grad_(False)


def all_in_one_layer(seed, gate=1.0, **options):
    args = {
        "source_dim": 4, "target_dim": 6, "source_num_heads": 2, "target_num_heads": 2,
        "hidden_dim": 8, "num_layers": 2, **options,
    }  # fmt: skip
    assert AllInOneFuserLayer.check_init_args(args) == []
    torch.manual_seed(seed)
    layer = AllInOneFuserLayer.from_init_args(args)
    state = layer.state_dict()
    state |= {name: torch.full_like(state[name], gate) for name in ("gate_logit",) if name in state}
    layer.load_state_dict(state)
    return layer.eval().requires_grad_(False)


@pytest.fixture
def traced(monkeypatch):
    """How many layers were traced, trace by trace."""
    found = []
    trace = export_fuser.trace

    def counting(graph, *args):
        found.append(len(graph.links))
        return trace(graph, *args)

    monkeypatch.setattr(export_fuser, "trace", counting)
    return found


FUSERS = {
    "alike but for their weights": ([c2c_layer(seed) for seed in range(4)], 1),
    "other gates": ([c2c_layer(0), c2c_layer(1, ("key",)), c2c_layer(2, ("value",))], 3),
    "one more block": ([c2c_layer(0), c2c_layer(1, num_layers=4)], 2),
    "one layer for two": ([layer := c2c_layer(3), layer], 1),
    "options that are no weights": (
        [
            all_in_one_layer(0),
            all_in_one_layer(1, add_self=False),
            all_in_one_layer(2, scalar_temperature=0.3),
        ],
        3,
    ),
    "a gate that is closed": (
        [all_in_one_layer(n, gate, add_self=False) for n, gate in enumerate((1.0, -1.0))],
        2,
    ),
    "two classes": ([c2c_layer(0), all_in_one_layer(1), c2c_layer(2)], 2),
}


@pytest.mark.parametrize(("layers", "num_traced"), FUSERS.values(), ids=FUSERS)
def test_every_layer_equals_eager_and_like_ones_are_traced_once(
    tmp_path, traced, layers, num_traced
):
    dims = [
        ModelDims("llama", len(layers), heads, size, 9, None, None, "float32")
        for heads, size in ((2, 4), (2, 6))
    ]
    links = tuple(
        LayerLink(n, n, layer.key_gate, layer.value_gate) for n, layer in enumerate(layers)
    )
    pair = Pair("p", dims[1], (SharerLink(dims[0], links, len(layers), "none"),))
    assert export_fuser.export_fuser(pair, [dict(enumerate(layers))], tmp_path) is not None
    assert traced == [num_traced]

    rng = np.random.default_rng(0)
    inputs = {
        names.SLOTS: np.arange(4, 4 + TOKENS),
        names.sharer_slots(1): np.arange(2, 2 + TOKENS),
    }
    caches = {}
    for layer in range(len(layers)):
        for kind in names.KINDS:
            for name, size in (
                (names.sharer_cache(1, layer, kind), 4),
                (names.past(layer, kind), 6),
            ):
                shape = (1, 2, CAPACITY, size)
                caches[name] = rng.standard_normal(shape).astype(np.float32)
    before = {name: cache.copy() for name, cache in caches.items()}
    graph = OrtGraph(tmp_path / "fuser.onnx", 1)
    inputs |= {name: cache for name, cache in caches.items() if name in graph.input_names}
    outputs = {
        names.present(layer, kind): caches[names.past(layer, kind)]
        for layer in range(len(layers))
        for kind in layers[layer].writes
    }
    graph.bind(inputs, outputs).start()
    for number, layer in enumerate(layers):
        given = [
            torch.from_numpy(before[name(kind)][:, :, first : first + TOKENS])
            for name, first in (
                (lambda kind, n=number: names.sharer_cache(1, n, kind), 2),
                (lambda kind, n=number: names.past(n, kind), 4),
            )
            for kind in names.KINDS
        ]
        for kind, wanted in zip(names.KINDS, layer(*given), strict=True):
            found = caches[names.past(number, kind)]
            np.testing.assert_allclose(found[:, :, 4 : 4 + TOKENS], wanted, rtol=0, atol=1e-5)
            untouched = before[names.past(number, kind)]
            np.testing.assert_array_equal(found[:, :, :4], untouched[:, :, :4])
            np.testing.assert_array_equal(found[:, :, 4 + TOKENS :], untouched[:, :, 4 + TOKENS :])
