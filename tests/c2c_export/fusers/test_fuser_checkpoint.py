"""Every way in which a Fuser checkpoint can be wrong, on copies of a good one."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from paths import GOLDEN

from c2c_export.fusers.fuser_checkpoint import read_fuser
from c2c_runtime.errors import PairError


@pytest.fixture
def fuser(tmp_path):
    """A writable copy of a published layout with 4 layers."""
    shutil.copytree(GOLDEN / "qwen3_from_qwen2" / "fuser", tmp_path / "fuser")
    return tmp_path / "fuser"


def problems_of(path):
    with pytest.raises(PairError) as caught:
        read_fuser(path)
    assert caught.value.exit_code == 3
    for problem in caught.value.problems:
        assert problem.cause
        assert problem.remedy
    return caught.value.problems


def the_problem(path):
    problems = problems_of(path)
    assert len(problems) == 1, problems
    return problems[0]


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(path, change):
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


def test_reads_the_golden_checkpoint(fuser):
    checkpoint = read_fuser(fuser)
    assert checkpoint.path == fuser / "final"
    assert checkpoint.links == {0: (0, 0), 1: (0, 1), 2: (1, 2), 3: (2, 3)}
    gates = [(link.key_gate, link.value_gate) for link in checkpoint.layer_links()]
    assert gates == [(True, True), (False, True), (True, False), (True, True)]
    assert checkpoint.recipe["model"]["mapping"] == "last_aligned"
    assert checkpoint.alignment == "none"
    assert list(checkpoint.load_layers()) == [0, 1, 2, 3]


def test_reads_bf16_weights_and_the_typed_dtype():
    checkpoint = read_fuser(GOLDEN / "bf16" / "fuser")
    assert checkpoint.layers[0].init_args["dtype"] == {"__type__": "torch.dtype", "value": "bfloat16"}  # fmt: skip
    layers = checkpoint.load_layers()
    assert {p.dtype for p in layers[0].parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in layers[0].parameters())


def test_loaded_weights_do_not_hang_on_the_file(fuser):
    layers = read_fuser(fuser).load_layers()
    before = layers[0].get_parameter("key_in.weight").clone()
    shutil.rmtree(fuser)
    assert torch.equal(layers[0].get_parameter("key_in.weight"), before)


def test_takes_the_inner_folder_itself(fuser):
    assert read_fuser(fuser / "final").recipe == read_fuser(fuser).recipe != {}


def test_takes_the_highest_checkpoint_where_there_is_no_final(fuser):
    (fuser / "final").rename(fuser / "checkpoint-900")
    shutil.copytree(fuser / "checkpoint-900", fuser / "checkpoint-1000")
    assert read_fuser(fuser).path.name == "checkpoint-1000"


def test_final_comes_before_checkpoints(fuser):
    shutil.copytree(fuser / "final", fuser / "checkpoint-1000")
    assert read_fuser(fuser).path.name == "final"


def test_a_recipe_is_not_needed(fuser):
    (fuser / "config.json").unlink()
    checkpoint = read_fuser(fuser)
    assert checkpoint.recipe == {}
    assert checkpoint.alignment is None


@pytest.mark.parametrize(
    ("model", "alignment"),
    [
        ({}, None),
        ({"is_do_alignment": True}, "first"),
        ({"is_do_alignment": True, "alignment_strategy": "longest"}, "longest"),
        ({"is_do_alignment": False, "alignment_strategy": "longest"}, "none"),
    ],
)
def test_alignment_comes_from_the_recipe(fuser, model, alignment):
    (fuser / "config.json").write_text(json.dumps({"model": model}))
    assert read_fuser(fuser).alignment == alignment


def test_class_names_compare_case_insensitively(fuser):
    for path in (fuser / "final").glob("projector_[0-9].json"):
        edit_json(path, lambda content: content.update({"class": "c2cPROJECTOR"}))
    assert len(read_fuser(fuser).load_layers()) == 4


def test_only_the_first_pair_of_a_list_is_used(fuser):
    path = fuser / "final" / "projector_config.json"
    edit_json(path, lambda content: content["0"]["1"].update({"0": [[2, 0], [1, 1]]}))
    assert read_fuser(fuser).links[0] == (2, 0)


def test_layers_can_share_a_projector(fuser):
    path = fuser / "final" / "projector_config.json"
    edit_json(path, lambda content: content["0"]["1"].update({"3": [[2, 2]]}))
    for suffix in ("pt", "json"):
        (fuser / "final" / f"projector_3.{suffix}").unlink()
    layers = read_fuser(fuser).load_layers()
    assert layers[3] is layers[2]


def test_no_such_folder(tmp_path):
    assert "there is no Fuser folder" in the_problem(tmp_path / "absent").cause


def test_a_folder_without_a_fuser(tmp_path):
    problem = the_problem(tmp_path)
    assert "neither final/" in problem.cause


def test_a_missing_layer_map(fuser):
    (fuser / "final" / "projector_config.json").unlink()
    assert "projector_config.json is missing" in the_problem(fuser).cause


@pytest.mark.parametrize("suffix", ["pt", "json"])
def test_a_missing_file(fuser, suffix):
    (fuser / "final" / f"projector_2.{suffix}").unlink()
    assert f"projector_2.{suffix} is missing" in the_problem(fuser).cause


def test_an_extra_layer(fuser):
    for suffix in ("pt", "json"):
        source = fuser / "final" / f"projector_0.{suffix}"
        shutil.copy(source, source.with_stem("projector_7"))
    assert "projector_7 is not used by any layer" in the_problem(fuser).cause


def test_every_problem_is_listed_at_once(fuser):
    (fuser / "final" / "projector_0.pt").unlink()
    (fuser / "final" / "projector_1.json").write_text("{")
    edit_weights(fuser / "final" / "projector_2.pt", lambda weights: weights.pop("key_in.bias"))
    causes = [problem.cause for problem in problems_of(fuser)]
    assert len(causes) == 3
    assert all(f"projector_{index}" in " ".join(causes) for index in range(3))


@pytest.mark.parametrize("name", ["projector_config.json", "projector_0.json", "../config.json"])
@pytest.mark.parametrize("content", ["{oops", "[1]"])
def test_unreadable_json(fuser, name, content):
    (fuser / "final" / name).write_text(content)
    problem = the_problem(fuser)
    assert "JSON" in problem.cause
    assert name.removeprefix("../") in problem.cause


@pytest.mark.parametrize(
    "layer_map",
    [
        {"0": {"1": {"0": []}}},
        {"0": {"1": {"zero": [[0, 0]]}}},
        {"0": {"1": {"0": [[-1, 0]]}}},
        {"0": {"1": {"0": [[0]]}}},
        {"0": {"1": {"0": [[0.5, 0]]}}},
    ],
)
def test_a_layer_map_that_is_none(fuser, layer_map):
    (fuser / "final" / "projector_config.json").write_text(json.dumps(layer_map))
    problem = the_problem(fuser)
    assert "is no layer map" in problem.cause
    assert "receiver layer" in problem.remedy


def test_a_map_of_several_sharers(fuser):
    path = fuser / "final" / "projector_config.json"
    edit_json(path, lambda content: content["0"].update({"2": content["0"]["1"]}))
    problem = the_problem(fuser)
    assert "other models than one Sharer" in problem.cause
    assert "--fuser can be repeated" in problem.remedy


@pytest.mark.parametrize("kept_bytes", [0, 100, 20_000])
def test_truncated_weights(fuser, kept_bytes):
    path = fuser / "final" / "projector_1.pt"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    problem = the_problem(fuser)
    assert "projector_1.pt" in problem.cause
    assert "cut short" in problem.cause or "damaged" in problem.cause


class Runs:
    """What a hostile pickle does: unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])  # fmt: skip
def test_pickles_that_run_code_are_refused_unrun(fuser, tmp_path, write):
    trace = tmp_path / "was_run"
    write({"key_in.weight": Runs(trace)}, fuser / "final" / "projector_0.pt")
    problem = the_problem(fuser)
    assert "refused" in problem.cause
    assert "could run code" in problem.cause
    if write is torch.save:  # of a bare pickle PyTorch names the operation or the callable
        assert "open" in problem.cause
    assert not trace.exists()


@pytest.mark.parametrize("content", [[1, 2], {"key_in.weight": 3.0}, torch.zeros(2)])
def test_weights_that_are_no_state_dict(fuser, content):
    torch.save(content, fuser / "final" / "projector_0.pt")
    assert "is no state dict" in the_problem(fuser).cause


def test_missing_and_extra_weights(fuser):
    def change(weights):
        weights["key_in_weight"] = weights.pop("key_in.weight")

    edit_weights(fuser / "final" / "projector_0.pt", change)
    causes = [problem.cause for problem in problems_of(fuser)]
    assert any("lacks key_in.weight" in cause for cause in causes)
    assert any("holds key_in_weight" in cause for cause in causes)


def test_a_weight_of_another_shape(fuser):
    path = fuser / "final" / "projector_0.json"
    edit_json(path, lambda content: content["init_args"].update(intermediate_dim=57))
    causes = [problem.cause for problem in problems_of(fuser)]
    assert any("[56, 40], where init_args ask for [57, 40]" in cause for cause in causes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(fuser, value):
    edit_weights(
        fuser / "final" / "projector_0.pt", lambda w: w["value_proj_out.bias"][3].fill_(value)
    )
    problem = the_problem(fuser)
    assert "value_proj_out.bias holds values that are not finite" in problem.cause


def test_integer_weights(fuser):
    edit_weights(
        fuser / "final" / "projector_0.pt", lambda w: w.update({"key_in.bias": w["key_in.bias"].int()})
    )  # fmt: skip
    assert "key_in.bias is stored as torch.int32" in the_problem(fuser).cause


def test_an_unknown_class_is_one_problem_that_lists_the_known(fuser):
    for path in (fuser / "final").glob("projector_[0-9].json"):
        edit_json(path, lambda content: content.update({"class": "MagicProjector"}))
    problem = the_problem(fuser)
    assert "class MagicProjector is unknown (projector 0, 1, 2, 3)" in problem.cause
    assert "C2CProjector" in problem.remedy


def test_too_few_layers(fuser):
    path = fuser / "final" / "projector_2.json"
    edit_json(path, lambda content: content["init_args"].update(num_layers=2))
    problem = the_problem(fuser)
    assert "projector_2.json: init_args: num_layers is 2" in problem.cause
    assert "at least 3" in problem.remedy


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_names_written_by_a_training_wrapper_are_read(fuser, prefix):
    layers = read_fuser(fuser).load_layers()
    # Copies, because a layer's weights are mapped from the file that is written anew.
    expected = {
        (index, name): weight.clone()
        for index, layer in layers.items()
        for name, weight in layer.state_dict().items()
    }
    for path in (fuser / "final").glob("projector_*.pt"):
        weights = torch.load(path, weights_only=True)
        torch.save({prefix + name: weight.clone() for name, weight in weights.items()}, path)
    found = read_fuser(fuser).load_layers()
    for (index, name), weight in expected.items():
        assert torch.equal(found[index].state_dict()[name], weight)


def test_a_prefix_of_some_names_alone_is_no_wrapper(fuser):
    def change(weights):
        name = next(iter(weights))
        weights[f"module.{name}"] = weights.pop(name)

    edit_weights(fuser / "final" / "projector_0.pt", change)
    assert any("module." in problem.cause for problem in problems_of(fuser))
