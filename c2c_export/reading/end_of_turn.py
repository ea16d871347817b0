"""Every token that a checkpoint says ends an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from c2c_export.reading.config_file import read_json
from c2c_export.reading.model_source import ModelSource
from c2c_export.reading.weight_headers import gguf_header
from c2c_runtime.errors import PairError

# Of a sequence, of a turn, of a message; the first is also what transformers' loader reads.
_GGUF_KEYS = ("eos_token_id", "eos_token_ids", "eot_token_id", "eom_token_id")


def eos_ids(
    source: ModelSource, config: Any, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[int, ...]:
    """The ids of the config, of generation_config.json, of a GGUF file's keys and of the tokenizer's
    eos_token, in this order and each once.

    Raises PairError where one is no id.
    """
    ids: dict[int, None] = {}
    for where, stated in _stated(source, config, tokenizer):
        for token_id in stated if isinstance(stated, list | tuple) else [stated]:
            if isinstance(token_id, int) and not isinstance(token_id, bool):
                ids[token_id] = None
            elif token_id is not None:
                raise PairError.of(
                    f"{where} is {token_id!r}, which is no token id",
                    "give the id of that token, an integer, or a list of ids",
                )
    return tuple(ids)


def _stated(
    source: ModelSource, config: Any, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[tuple[str, Any]]:
    yield f"eos_token_id of the config of {source}", getattr(config, "eos_token_id", None)
    if source.gguf_file is not None:
        path = source.directory / source.gguf_file
        fields = gguf_header(path).fields
        for key in _GGUF_KEYS:
            yield f"tokenizer.ggml.{key} of {path}", fields.get(f"tokenizer.ggml.{key}")
    else:
        path = source.directory / "generation_config.json"
        if path.is_file():
            yield f"eos_token_id of {path}", read_json(path, source).get("eos_token_id")
    if tokenizer is not None:
        yield f"eos_token of the tokenizer of {source}", tokenizer.eos_token_id
