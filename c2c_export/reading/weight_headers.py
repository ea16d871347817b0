"""Names, shapes and dtypes of a checkpoint's weights, read from file headers without loading any."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from c2c_export.reading.gguf_header import BigEndianError, GGUFHeader, read_gguf_header
from c2c_export.system_errors import naming_system_errors
from c2c_runtime.errors import PairError, Problem

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class WeightHeader:
    """One weight: its shape as PyTorch has it, and its dtype (float32, bfloat16, ..., or as stored)."""

    shape: tuple[int, ...]
    dtype: str


def safetensors_headers(directory: Path) -> dict[str, WeightHeader]:
    """Every weight of ``model.safetensors`` or of the shards that its index names.

    Raises PairError that lists every file which is missing or damaged, UnavailableError where this
    machine opens no more files.
    """
    headers: dict[str, WeightHeader] = {}
    problems: list[Problem] = []
    for path in weight_files(directory):
        try:
            headers |= _headers_of_file(path)
        except PairError as error:
            problems += error.problems
        except (SafetensorError, OSError) as error:
            problems.append(
                Problem(f"{path} cannot be read, it may be cut short: {error}", "download it again")
            )
    if problems:
        raise PairError(f"the weights in {directory} are damaged", problems)
    return headers


def _headers_of_file(path: Path) -> dict[str, WeightHeader]:
    headers = {}
    with naming_system_errors(PairError), path.open("rb"):
        pass  # safe_open says of every file that it does not open that there is none
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 -- no mapping: it has keys() only
            weight = file.get_slice(name)
            stored = str(weight.get_dtype())
            headers[name] = WeightHeader(tuple(weight.get_shape()), _FLOATS.get(stored, stored))
    return headers


def weight_files(directory: Path) -> list[Path]:
    """The files that the weights of a checkpoint lie in. PairError if there are none.

    ``model.safetensors`` comes before an index, which can be left over from shards, as in transformers.
    """
    single = directory / _SINGLE
    if single.is_file() or single.is_symlink():
        return [single]
    index = directory / _INDEX
    if index.is_file() or index.is_symlink():
        try:
            with naming_system_errors(PairError):
                text = index.read_text("utf-8")
            weight_map: Mapping[str, str] = json.loads(text)["weight_map"]
            return [directory / name for name in sorted(set(weight_map.values()))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            problem = Problem(f"{index} is no index of weights: {error}", "download it again")
            raise PairError("", [problem]) from error
    pickled = sorted(directory.glob("pytorch_model*.bin"))
    cause = f"{directory} holds pickled weights only" if pickled else f"{directory} has no weights"
    raise PairError.of(cause, f"give a checkpoint with {_SINGLE}, as save_pretrained writes it")


def gguf_header(path: Path) -> GGUFHeader:
    """The header of a GGUF file. Raises PairError for a damaged file."""
    try:
        with naming_system_errors(PairError):
            status = path.stat()
            return _gguf_header(path, status.st_size, status.st_mtime_ns)
    except BigEndianError as error:
        remedy = "give a little-endian one: gguf-convert-endian of the package gguf converts it"
        raise PairError.of(f"the GGUF file {path} is big-endian", remedy) from error
    except (ValueError, OSError) as error:
        problem = Problem(f"{path} is no readable GGUF file: {error}", "download it again")
        raise PairError("", [problem]) from error


def gguf_headers(path: Path) -> dict[str, WeightHeader]:
    """Every weight of a GGUF file; quantised ones count as float32, which they are loaded as.

    Raises PairError for a damaged file.
    """
    return {
        name: WeightHeader(tensor.shape, tensor.dtype or "float32")
        for name, tensor in gguf_header(path).tensors.items()
    }


def num_parameters(directory: Path, gguf_file: str | None) -> int:
    """Numbers that a checkpoint stores, in weights that are tied once. PairError for a damaged file."""
    if gguf_file is not None:
        headers = gguf_headers(directory / gguf_file)
    else:
        headers = safetensors_headers(directory)
    return sum(math.prod(header.shape) for header in headers.values())


@lru_cache(maxsize=8)
def _gguf_header(path: Path, size_bytes: int, modified_ns: int) -> GGUFHeader:
    """The header of a file as it is now: config, sizes and plan of a build ask for it."""
    return read_gguf_header(path)
