"""A checkpoint's tokenizer -> the tokenizer directory of a bundle, which needs no transformers."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from c2c_export.reading.gguf_reading import plain_arrays
from c2c_export.system_errors import naming_system_errors
from c2c_runtime.bundle.manifest import SpecialToken, TokenizerSpec
from c2c_runtime.errors import C2CError, PairError
from c2c_runtime.text.tokenizer import CHAT_TEMPLATE_FILE, TOKENIZER_FILE

# A directory with none of these holds a model without a tokenizer.
_SOURCE_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def load_tokenizer(
    source_dir: Path, gguf_file: str | None = None
) -> PreTrainedTokenizerBase | None:
    """The checkpoint's fast tokenizer, or None if it comes without a tokenizer.

    ``gguf_file``: name of a GGUF file in ``source_dir`` that holds the tokenizer. Only local files
    are read and none of them is run.

    Raises ``PairError`` if the tokenizer files cannot be read or give no fast tokenizer.
    """
    if gguf_file is None and not any((source_dir / name).is_file() for name in _SOURCE_FILES):
        return None
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        with naming_system_errors(PairError), plain_arrays() if gguf_file else nullcontext():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                str(source_dir), local_files_only=True, trust_remote_code=False, **options
            )
    except C2CError:
        raise
    except Exception as error:  # the reader of each format raises what it likes
        raise PairError.of(
            f"the tokenizer in {source_dir / (gguf_file or '')} cannot be read: "
            f"{type(error).__name__}: {error}",
            "put the model's tokenizer.json beside its weights, or remove all tokenizer "
            "files for a bundle that takes and gives token ids only",
        ) from error
    backend_of(tokenizer)
    return tokenizer


def export_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    bundle_path: str,
    default_template: str | None,
) -> TokenizerSpec:
    """Write ``tokenizer.json`` and ``chat_template.jinja`` into ``directory``, which is made.

    ``bundle_path``: the directory's path inside the bundle, for the manifest.
    ``default_template``: used if the tokenizer has no chat template; None: then there is none.
    The same tokenizer gives the same bytes.

    Raises ``PairError`` if it is not a fast tokenizer.
    """
    backend = backend_copy(tokenizer)
    template = _chat_template(tokenizer) or default_template
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TOKENIZER_FILE).write_text(backend.to_str(), encoding="utf-8", newline="")
    if template is not None:
        (directory / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8", newline="")
    return TokenizerSpec(
        path=bundle_path,
        bos=_special(tokenizer.bos_token, tokenizer.bos_token_id),
        eos=_special(tokenizer.eos_token, tokenizer.eos_token_id),
        pad=_special(tokenizer.pad_token, tokenizer.pad_token_id),
        unk=_special(tokenizer.unk_token, tokenizer.unk_token_id),
        has_chat_template=template is not None,
    )


def backend_copy(tokenizer: PreTrainedTokenizerBase) -> tokenizers.Tokenizer:
    """A copy of the tokenizer's backend that neither pads nor truncates.

    Raises ``PairError`` if the tokenizer has no backend.
    """
    copy = tokenizers.Tokenizer.from_str(backend_of(tokenizer).to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def backend_of(tokenizer: PreTrainedTokenizerBase) -> tokenizers.Tokenizer:
    """The ``tokenizers`` object behind a fast tokenizer. Raises ``PairError`` for a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise PairError.of(
            f"{type(tokenizer).__name__} of {tokenizer.name_or_path or 'this checkpoint'} "
            "is a slow tokenizer: it cannot be written as tokenizer.json",
            "convert it: AutoTokenizer.from_pretrained(DIR, use_fast=True)"
            ".save_pretrained(DIR) with sentencepiece or tiktoken installed",
        )
    return backend


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template used for chats; of several named ones, ``default``."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def _special(text: str | None, id: int | None) -> SpecialToken | None:
    return None if text is None or id is None else SpecialToken(str(text), id)
