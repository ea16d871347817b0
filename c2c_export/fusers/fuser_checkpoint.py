"""Reading a published Fuser checkpoint, and every way in which one can be wrong.

Layout: ``<folder>/config.json`` is the training recipe; ``<folder>/final/`` (or ``checkpoint-N/``)
holds ``projector_N.pt`` (a state dict), ``projector_N.json`` (class and init_args) for N = 0, 1, ...
and ``projector_config.json``, which maps Receiver layers to (Sharer layer, N).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from c2c_export.fusers.fuser import FuserLayer, SectionLimits
from c2c_export.fusers.fuser_classes import FUSER_CLASSES
from c2c_export.fusers.fuser_shape import FuserShape
from c2c_export.fusers.fuser_weights import check_weights, load_layer, read_state_dict
from c2c_runtime.bundle.manifest import LayerLink
from c2c_runtime.errors import PairError, Problem

LinkedLayers = dict[int, tuple[int, FuserLayer]]  # Receiver layer: (Sharer layer, module)

_LAYER_MAP = "projector_config.json"
_DOWNLOAD_AGAIN = "download or copy the checkpoint again, completely"


@dataclass(frozen=True)
class FuserLayerSpec:
    """One ``projector_N``: its class and arguments as published, its sizes and gates."""

    class_name: str
    init_args: Mapping[str, object]
    path: Path  # projector_N.pt
    shape: FuserShape
    key_gate: bool
    value_gate: bool
    num_parameters: int = 0
    section_limits: SectionLimits = field(default_factory=SectionLimits)


@dataclass(frozen=True)
class FuserCheckpoint:
    """A Fuser: layers by projector index, and which Receiver layer uses which.

    ``links``: Receiver layer -> (Sharer layer, projector index). ``recipe``: config.json, or {}.
    """

    path: Path  # the folder that holds the projector files
    recipe: Mapping[str, Any]
    layers: Mapping[int, FuserLayerSpec]
    links: Mapping[int, tuple[int, int]]

    @property
    def alignment(self) -> Literal["none", "first", "longest"] | None:
        """How tokens were aligned in training; None where the recipe does not say."""
        model = self.recipe.get("model", {})
        if "is_do_alignment" not in model:
            return None
        if not model["is_do_alignment"]:
            return "none"
        return "longest" if model.get("alignment_strategy", "first") == "longest" else "first"

    def layer_links(self) -> tuple[LayerLink, ...]:
        """The layer map with its gates, by Receiver layer."""
        return tuple(
            LayerLink(
                receiver_layer,
                sharer_layer,
                self.layers[index].key_gate,
                self.layers[index].value_gate,
            )
            for receiver_layer, (sharer_layer, index) in sorted(self.links.items())
        )

    @property
    def num_parameters(self) -> int:
        """Of all layers."""
        return sum(layer.num_parameters for layer in self.layers.values())

    @property
    def fuses_whole_sections(self) -> bool:
        """Whether any layer must see a section as a whole."""
        return any(layer.section_limits.whole is not None for layer in self.layers.values())

    @property
    def max_fused_len(self) -> int | None:
        """Tokens of the longest section that every layer has weights for; None: any."""
        lengths = [layer.section_limits.max_len for layer in self.layers.values()]
        return min((length for length in lengths if length is not None), default=None)

    def load_layers(self) -> dict[int, FuserLayer]:
        """Receiver layer -> its Fuser layer, float32, without gradients."""
        loaded = {
            index: load_layer(FUSER_CLASSES[spec.class_name.lower()], spec.init_args, spec.path)
            for index, spec in self.layers.items()
        }
        return {layer: loaded[index] for layer, (_, index) in sorted(self.links.items())}

    def load_linked_layers(self) -> LinkedLayers:
        """The same, each with the Sharer layer that it listens to."""
        return {
            layer: (self.links[layer][0], module) for layer, module in self.load_layers().items()
        }


def read_fuser(path: Path) -> FuserCheckpoint:
    """Read and check a Fuser checkpoint; weights are looked through, not kept.

    ``path``: the folder with ``final/`` or ``checkpoint-N/`` in it (the highest N where there is no
    ``final/``), or that inner folder itself. Raises PairError with every problem found.
    """
    folder = _inner_folder(path)
    problems: list[Problem] = []
    recipe = _read_recipe(folder, problems)
    links = _read_links(folder / _LAYER_MAP, problems)
    layers = {}
    unknown_classes: dict[str, list[int]] = {}
    for index in _projector_indices(folder, links, problems):
        spec = _read_layer(folder, index, problems, unknown_classes)
        if spec is not None:
            layers[index] = spec
    for class_name, indices in unknown_classes.items():
        known = ", ".join(cls.published_name for cls in FUSER_CLASSES.values())
        numbers = ", ".join(map(str, indices))
        cause = f"{folder}: class {class_name} is unknown (projector {numbers})"
        problems.append(Problem(cause, f"known classes are {known}"))
    if problems:
        raise PairError(f"the Fuser checkpoint {folder} cannot be used", problems)
    return FuserCheckpoint(folder, recipe, layers, links)


def _inner_folder(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_dir():
        raise PairError.of(f"there is no Fuser folder {path}", "check the path given as --fuser")
    if (path / _LAYER_MAP).is_file():
        return path
    numbered = {
        int(match[1]): folder
        for folder in path.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and folder.is_dir()
    }
    if (path / "final").is_dir():
        return path / "final"
    if numbered:
        return numbered[max(numbered)]
    cause = f"{path} holds no Fuser: neither final/, nor checkpoint-N/, nor {_LAYER_MAP}"
    raise PairError.of(cause, "give the folder that training or the hub wrote")


def _read_recipe(folder: Path, problems: list[Problem]) -> dict[str, Any]:
    for path in (folder / "config.json", folder.parent / "config.json"):
        if path.is_file():
            recipe = _read_object(path, problems) or {}
            if not isinstance(recipe.get("model", {}), dict):
                problems.append(Problem(f"{path}: model is no JSON object", _DOWNLOAD_AGAIN))
                return {}
            return recipe
    return {}


def _read_object(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """A JSON object; None after noting why there is none."""
    if not path.is_file():
        problems.append(Problem(f"{path} is missing", _DOWNLOAD_AGAIN))
        return None
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        problems.append(Problem(f"{path} is not readable as JSON: {error}", _DOWNLOAD_AGAIN))
        return None
    if not isinstance(fields, dict):
        problems.append(Problem(f"{path} holds no JSON object", _DOWNLOAD_AGAIN))
        return None
    return fields


def _read_links(path: Path, problems: list[Problem]) -> dict[int, tuple[int, int]]:
    """{"0": {"1": {receiver layer: [[sharer layer, index], ...]}}}, the first pair of each list."""
    fields = _read_object(path, problems)
    if fields is None:
        return {}
    sharers = fields.get("0")
    if list(fields) != ["0"] or not isinstance(sharers, dict) or list(sharers) != ["1"]:
        problems.append(
            Problem(
                f'{path} maps other models than one Sharer ("1") to one Receiver ("0")',
                "give one checkpoint for each Sharer: --fuser can be repeated",
            )
        )
        return {}
    links = {}
    try:
        for layer, pairs in sharers["1"].items():
            sharer_layer, index = pairs[0]
            links[_count(layer)] = (_count(sharer_layer), _count(index))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        problems.append(
            Problem(
                f"{path} is no layer map: {error}",
                'it must read {"0": {"1": {"<receiver layer>": [[<sharer layer>, <index>]]}}}',
            )
        )
        return {}
    if not links:
        problems.append(Problem(f"{path} maps no layer", _DOWNLOAD_AGAIN))
    return links


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or int(value) < 0:
        raise ValueError(f"{value!r} is no layer or index")
    return int(value)


def _projector_indices(
    folder: Path, links: Mapping[int, tuple[int, int]], problems: list[Problem]
) -> list[int]:
    """The indices that are there with both files and are used; what is wrong is noted."""

    def present(suffix: str) -> set[int]:
        matches = (
            re.fullmatch(r"projector_(\d+)", p.stem) for p in folder.glob(f"projector_*.{suffix}")
        )
        return {int(match[1]) for match in matches if match}

    weights, arguments = present("pt"), present("json")
    used = {index for _, index in links.values()}
    for index in sorted(used | weights | arguments):
        for suffix, there in (("pt", weights), ("json", arguments)):
            if index not in there:
                path = folder / f"projector_{index}.{suffix}"
                problems.append(Problem(f"{path} is missing", _DOWNLOAD_AGAIN))
        if links and index not in used and index in weights | arguments:
            problems.append(
                Problem(
                    f"projector_{index} is not used by any layer in {folder / _LAYER_MAP}",
                    "take the layer map that belongs to these files, or remove the extra files",
                )
            )
    return sorted(weights & arguments)


def _read_layer(
    folder: Path, index: int, problems: list[Problem], unknown_classes: dict[str, list[int]]
) -> FuserLayerSpec | None:
    """One layer, checked; None after noting what is wrong with it."""
    path = folder / f"projector_{index}.json"
    fields = _read_object(path, problems)
    if fields is None:
        return None
    class_name, init_args = fields.get("class"), fields.get("init_args", {})
    if not isinstance(class_name, str) or not isinstance(init_args, dict):
        problems.append(Problem(f"{path} names no class or no init_args", _DOWNLOAD_AGAIN))
        return None
    layer_class = FUSER_CLASSES.get(class_name.lower())
    if layer_class is None:
        unknown_classes.setdefault(class_name, []).append(index)
        return None
    found = [
        Problem(f"{path}: {problem.cause}", problem.remedy)
        for problem in layer_class.check_init_args(init_args)
    ]
    problems += found
    weights_path = path.with_suffix(".pt")
    state_dict = read_state_dict(weights_path, problems)
    if found or state_dict is None:
        return None
    with torch.device("meta"):
        layer = layer_class.from_init_args(init_args)
    wrong = check_weights(layer, state_dict, weights_path)
    problems += wrong
    if wrong:
        return None
    layer.load_state_dict(state_dict, strict=True, assign=True)
    return FuserLayerSpec(
        class_name,
        init_args,
        weights_path,
        layer.shape,
        layer.key_gate,
        layer.value_gate,
        sum(parameter.numel() for parameter in layer.parameters()),
        layer.section_limits,
    )
