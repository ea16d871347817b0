"""Language model checkpoints: where they lie, how large they are, and the loaded model.

A checkpoint is a directory as save_pretrained writes it, a GGUF file, or a hub id. Code that comes
with a checkpoint is never run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.activations import ACT2FN

from c2c_export.reading.architectures import ARCHITECTURES, check_architecture
from c2c_export.reading.config_file import (
    CONFIG_ERRORS,
    config_from_directory,
    refused,
)
from c2c_export.reading.directory_check import check_directory, check_names
from c2c_export.reading.gguf_config import complete_config
from c2c_export.reading.gguf_contents import REMEDY, check_gguf_contents
from c2c_export.reading.model_source import OTHER_WAYS, ModelSource
from c2c_export.reading.quiet import quiet
from c2c_export.reading.weight_headers import (
    WeightHeader,
    gguf_header,
    gguf_headers,
    safetensors_headers,
)
from c2c_export.system_errors import naming_system_errors
from c2c_runtime.bundle.manifest import ModelDims
from c2c_runtime.errors import PairError, Problem, UnavailableError

_SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "head_dim",
)


def read_config(source: ModelSource) -> Any:
    """The transformers config of a checkpoint. Raises PairError: missing, unreadable, unknown type."""
    if source.gguf_file is None:
        problems = check_directory(source.directory)
        if problems:
            raise PairError("", problems)
        return _without_pad(config_from_directory(source))
    path = source.directory / source.gguf_file
    problems = check_gguf_contents(gguf_header(path))
    if problems:
        raise PairError(f"{path} cannot be read as it is meant", problems)
    # Parsing a GGUF vocabulary takes seconds, so it is done once; a config can be changed, so copy.
    modified_ns = path.stat().st_mtime_ns
    return copy.deepcopy(_parse_gguf_config(source, modified_ns))


@lru_cache(maxsize=8)
def _parse_gguf_config(source: ModelSource, modified_ns: int) -> Any:
    assert source.gguf_file is not None
    path = source.directory / source.gguf_file
    config = _config_of_gguf(source)
    if (
        config.model_type == "mistral"
    ):  # what a llama file named mistral is taken for, and not loaded
        config = LlamaConfig.from_dict(config.to_dict() | {"model_type": "llama"})
    if config.model_type in ARCHITECTURES:  # others are refused by name
        complete_config(config, gguf_header(path), path)
    return _without_pad(config)


def _without_pad(config: Any) -> Any:
    """A padding token beyond the embeddings is nobody's, and nothing is padded here."""
    pad = getattr(config, "pad_token_id", None)
    if pad is not None and not 0 <= pad < getattr(config, "vocab_size", pad + 1):
        config.pad_token_id = None
    return config


def _config_of_gguf(source: ModelSource) -> Any:
    try:
        with naming_system_errors(PairError), quiet(source):
            return AutoConfig.from_pretrained(
                source.directory,
                gguf_file=source.gguf_file,
                local_files_only=True,
                trust_remote_code=False,
            )
    except ImportError as error:
        raise _missing_package(error) from error
    except CONFIG_ERRORS as error:
        raise refused(source, error, REMEDY) from error


def model_dims(config: Any, source: ModelSource) -> ModelDims:
    """The sizes that caches and graphs are built from; the KV sizes come from the weights.

    Raises PairError with every problem of the architecture, or of the weights' headers.
    """
    problems = check_architecture(config)
    if problems:
        raise PairError(f"{source} cannot be compiled", problems)
    problems = list(_size_problems(config))
    if problems:
        raise PairError(f"the config of {source} cannot be right", problems)
    keys = _key_projections(config, source)
    num_heads = ARCHITECTURES[config.model_type].num_projected_heads(config)
    num_rows = {header.shape[0] for header in keys}
    if len(num_rows) > 1:
        raise _wrong(
            f"layers of {source} have differing head sizes: k_proj has {sorted(num_rows)} rows",
            "use a model whose layers are alike",
        )
    rows = num_rows.pop()
    if rows % num_heads:
        raise _wrong(
            f"k_proj of {source} has {rows} rows, which its {num_heads} heads (num_key_value_heads) "
            "do not divide",
            "correct config.json",
        )
    dtype = keys[0].dtype
    if dtype not in ("float32", "bfloat16", "float16"):
        raise _wrong(
            f"the weights of {source} are stored as {dtype}",
            "give the checkpoint in float32, bfloat16 or float16",
        )
    return ModelDims(
        architecture=config.model_type,
        num_layers=int(config.num_hidden_layers),
        num_kv_heads=int(config.num_key_value_heads),
        head_dim=rows // num_heads,
        vocab_size=int(config.vocab_size),
        max_positions=getattr(config, "max_position_embeddings", None),
        sliding_window=ARCHITECTURES[config.model_type].sliding_window(config),
        dtype=dtype,
    )


def _size_problems(config: Any) -> Iterator[Problem]:
    for name in _SIZES:
        value = getattr(config, name, None)
        if value is None and name == "head_dim":
            continue
        if not isinstance(value, int) or value < 1:
            yield Problem(f"{name} is {value!r}", "it must be an integer of 1 or more")
    for name in ("hidden_act", "hidden_activation"):
        value = getattr(config, name, None)
        if value is not None and value not in ACT2FN:
            yield Problem(f"{name} is {value!r}, which is unknown", "name one of transformers'")


def _key_projections(config: Any, source: ModelSource) -> list[WeightHeader]:
    architecture = ARCHITECTURES[config.model_type]
    if source.gguf_file is not None:
        headers = gguf_headers(source.directory / source.gguf_file)
        pattern = architecture.gguf_key_projection
    else:
        headers = safetensors_headers(source.directory)
        problems = check_names(source.directory, headers)
        if problems:
            raise PairError("", problems)
        pattern = architecture.key_projection
    names = [pattern.format(layer=layer) for layer in range(config.num_hidden_layers)]
    missing = [name for name in names if name not in headers]
    if missing or not names:
        raise _wrong(
            f"{source} lacks {missing[0] if missing else 'any layer'}: the config says "
            f"{config.num_hidden_layers} layers",
            "give a complete checkpoint whose config matches its weights",
        )
    return [headers[name] for name in names]


def load_model(
    source: ModelSource,
    attn_implementation: str = "eager",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The model in eval mode without gradients, every weight in ``dtype`` whatever the file's.

    ``attn_implementation``: as transformers knows it. Raises PairError for weights that are
    missing, superfluous, of the wrong shape, or not finite.
    """
    try:
        with naming_system_errors(PairError), quiet(source):
            model, report = AutoModelForCausalLM.from_pretrained(
                source.directory,
                gguf_file=source.gguf_file,
                dtype=dtype,
                attn_implementation=attn_implementation,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                local_files_only=True,
                trust_remote_code=False,
                config=read_config(source),  # as it is meant, which is not always as it is written
            )
    except ImportError as error:
        raise _missing_package(error) from error
    except (*CONFIG_ERRORS, SafetensorError) as error:
        detail = " ".join(str(error).split())[:500]
        raise _wrong(f"the weights of {source} cannot be loaded: {detail}", OTHER_WAYS) from error
    complaints = [
        *(f"weight {name} is missing" for name in sorted(report["missing_keys"])),
        *(f"weight {name} is not part of the model" for name in sorted(report["unexpected_keys"])),
        *(
            f"weight {name} is {list(found)}, where the config asks for {list(wanted)}"
            for name, found, wanted in sorted(report["mismatched_keys"])
        ),
    ]
    remedy = "give a checkpoint whose config matches its weights"
    problems = [Problem(complaint, remedy) for complaint in complaints]
    problems += [
        Problem(f"weight {name} holds values that are not finite", "give an undamaged checkpoint")
        for name, weight in model.named_parameters()
        # What is not finite is one of its extremes: nine times as fast as a look at each.
        if weight.numel() and not all(map(math.isfinite, map(float, weight.detach().aminmax())))
    ]
    if problems:
        raise PairError(f"the weights of {source} do not fit its config", problems)
    return model.to(dtype).eval().requires_grad_(False)


def _wrong(cause: str, remedy: str) -> PairError:
    return PairError.of(cause, remedy)


def _missing_package(error: ImportError) -> UnavailableError:
    return UnavailableError(
        f"reading this checkpoint needs a package that is not installed: {error}",
        "pip install 'c2c-export[export]'",
    )
