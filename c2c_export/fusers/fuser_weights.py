"""One ``projector_N.pt``: a state dict of tensors, loaded without running anything it holds."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from c2c_export.fusers.fuser import FuserLayer
from c2c_runtime.errors import PairError, Problem

_MAX_NAMES = 4  # of wrong weights, in one message
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_DOWNLOAD_AGAIN = "download or copy the checkpoint again, completely"


def read_state_dict(path: Path, problems: list[Problem]) -> dict[str, Tensor] | None:
    """Names to tensors, mapped from the file; None after noting why there is none.

    A pickle that holds anything but tensors is refused unread: loading it could run code.
    """
    try:
        # Only the zip format, which torch has written since 1.6, can be mapped into memory.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, which are no reader's business
            state_dict = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        problems.append(
            Problem(
                f"{path} was refused: it is damaged, or holds more than tensors, and loading that "
                f"could run code ({_reason(error)})",
                "save the layer's state_dict() alone, or get the checkpoint from its publisher",
            )
        )
        return None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        problems.append(
            Problem(
                f"{path} cannot be read, it may be cut short: {_reason(error)}", _DOWNLOAD_AGAIN
            )
        )
        return None
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in state_dict.items()
    ):
        problems.append(
            Problem(f"{path} is no state dict of named tensors", "save the layer's state_dict()")
        )
        return None
    return _without_wrappers(dict(state_dict))


def _without_wrappers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the layer has them: training in a wrapper writes its name before every one."""
    for prefix in _WRAPPERS * 2:  # either can be inside the other
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): w for name, w in state_dict.items()}
    return state_dict


def _reason(error: Exception) -> str:
    """The part of torch's long message that says what was found."""
    text = " ".join(str(error).split())
    for start in ("Unsupported global: ", "WeightsUnpickler error: "):
        _, found, rest = text.partition(start)
        if found:
            return rest.split(". ")[0][:200]
    return text[:200] or type(error).__name__


def check_weights(layer: FuserLayer, state_dict: Mapping[str, Tensor], path: Path) -> list[Problem]:
    """Where a state dict does not fit ``layer``, or is not finite. ``layer`` may be on meta."""
    expected: dict[str, Tensor] = layer.state_dict()
    missing = [name for name in expected if name not in state_dict]
    extra = [name for name in state_dict if name not in expected]
    remedy = "take the projector_N.json that belongs to these weights"
    problems = []
    if missing:
        problems.append(Problem(f"{path} lacks {_some(missing)}", remedy))
    if extra:
        problems.append(Problem(f"{path} holds {_some(extra)}, which its class has not", remedy))
    for name in expected:
        weight = state_dict.get(name)
        if weight is None:
            continue
        shape, wanted = tuple(weight.shape), tuple(expected[name].shape)
        if shape != wanted:
            cause = f"{path}: {name} is {list(shape)}, where init_args ask for {list(wanted)}"
            problems.append(Problem(cause, remedy))
        elif not weight.is_floating_point():
            cause = f"{path}: {name} is stored as {weight.dtype}"
            problems.append(Problem(cause, "store weights in float32, bfloat16 or float16"))
        elif weight.numel() and not all(map(math.isfinite, map(float, weight.detach().aminmax()))):
            cause = f"{path}: {name} holds values that are not finite (NaN or infinity)"
            problems.append(Problem(cause, "train again or take an earlier checkpoint-N"))
    return problems


def _some(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def load_layer(
    layer_class: type[FuserLayer], init_args: Mapping[str, object], path: Path
) -> FuserLayer:
    """The layer with its weights in float32, without gradients. Raises PairError as it is read."""
    problems: list[Problem] = []
    state_dict = read_state_dict(path, problems)
    if state_dict is None:
        raise PairError("", problems)
    with torch.device("meta"):
        layer = layer_class.from_init_args(init_args)
    weights = {name: weight.float() for name, weight in state_dict.items()}
    layer.load_state_dict(weights, strict=True, assign=True)
    layer.eval().requires_grad_(False)
    return layer
