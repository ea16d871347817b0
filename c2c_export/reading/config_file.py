"""A directory's config.json -> a transformers config of what the model is.

How transformers would run the model is not taken from the file: dtype, attention and outputs are chosen
here, so a word about them must not keep a checkpoint from being read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from c2c_export.reading.architectures import ARCHITECTURES
from c2c_export.reading.model_source import OTHER_WAYS, ModelSource
from c2c_export.reading.quiet import quiet
from c2c_export.system_errors import missing, naming_system_errors
from c2c_runtime.errors import PairError

# What configs raise that say of a number that it is a text, and the like.
CONFIG_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    StrictDataclassError,
)

_HOW_IT_RUNS = (
    "dtype",
    "torch_dtype",
    "torchscript",
    "return_dict",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
)
_OF_CLASSIFIERS = ("id2label", "label2id", "num_labels", "problem_type")


def config_from_directory(source: ModelSource) -> Any:
    """The transformers config. Raises PairError: missing, unreadable, of an unknown type, or refused."""
    fields = read_json(source.directory / "config.json", source)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str):
        raise PairError.of(f"config.json of {source} names no model_type", OTHER_WAYS)
    if model_type not in CONFIG_MAPPING_NAMES:
        raise PairError.of(
            f"config.json of {source} has model_type {model_type}, which this version of "
            "transformers does not know",
            f"use one of {', '.join(ARCHITECTURES)}",
        )
    for name in (*_HOW_IT_RUNS, *_OF_CLASSIFIERS):
        fields.pop(name, None)
    if not fields.get("quantization_config"):
        fields.pop("quantization_config", None)
    try:
        with quiet(source):
            return CONFIG_MAPPING[model_type].from_dict(fields)
    except CONFIG_ERRORS as error:
        raise refused(source, error) from error


def refused(
    source: ModelSource,
    error: Exception,
    remedy: str = "correct it, or download the checkpoint again",
) -> PairError:
    """What to raise where transformers does not take a checkpoint's config."""
    detail = " ".join(str(error).split())
    return PairError.of(f"the config of {source} is refused: {detail}", remedy)


def read_json(path: Path, source: ModelSource) -> dict[str, Any]:
    """The JSON object in a file of ``source``. Raises PairError."""
    if path.is_symlink() and not path.exists():
        raise PairError.of(missing(path), "download the checkpoint again")
    if not path.is_file():
        found = sorted(source.directory.glob("*.[gG][gG][uU][fF]"))
        remedy = f"give the file itself: {found[0]}" if found else OTHER_WAYS
        raise PairError.of(f"{source.directory} has no {path.name}", remedy)
    try:
        with naming_system_errors(PairError):
            text = path.read_text("utf-8")
        fields = json.loads(text)
    except (ValueError, OSError) as error:
        cause = f"{path} is not readable as JSON: {error}"
        raise PairError.of(cause, "download it again") from error
    if not isinstance(fields, dict):
        raise PairError.of(f"{path} holds no JSON object", "download it again")
    return fields
