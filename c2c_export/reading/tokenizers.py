"""A checkpoint's tokenizer -> the tokenizer directory of a bundle, which needs no transformers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TokenizersBackend

from c2c_export.reading.chat_templates import (
    chat_template,
    check_gguf_templates,
    check_template,
)
from c2c_export.reading.gguf_reading import plain_arrays
from c2c_export.reading.weight_headers import gguf_header
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

# Texts that tokenizers take apart differently: spaces, lines, digits, accents, other scripts, code.
_PROBES = (
    "a",
    "The capital of France is Paris.",
    "  leading and   repeated   spaces\t\ttabs  ",
    "line\r\nline\n\n\nend\n",
    "cafe\u0301 na\u00efve stra\u00dfe \ufb01 \u2460",
    "\u5317\u4eac \u6771\u4eac \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \U0001f680",
    "1,000,000 3.14159 I'm we'LL x**2 {\"a\": [1]}",
)


@dataclass(frozen=True)
class ReadTokenizer:
    """A checkpoint's fast tokenizer. ``note``: what a user should know of how it was read."""

    tokenizer: PreTrainedTokenizerBase
    note: str | None = None


def load_tokenizer(
    source_dir: Path, gguf_file: str | None = None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of ``read_tokenizer`` alone."""
    read = read_tokenizer(source_dir, gguf_file)
    return None if read is None else read.tokenizer


def read_tokenizer(source_dir: Path, gguf_file: str | None = None) -> ReadTokenizer | None:
    """The checkpoint's fast tokenizer, or None if it comes without a tokenizer.

    Where there is a tokenizer.json, ids are its own: the classes of transformers rebuild some
    tokenizers from a model's type and drop what the file says. ``gguf_file``: name of a GGUF file in
    ``source_dir`` that holds the tokenizer. Only local files are read and none of them is run.

    Raises ``PairError`` if the tokenizer files cannot be read or give no fast tokenizer, or if no chat
    template can be told to be the one that is meant, or it does not compile.
    """
    if gguf_file is None and not any((source_dir / name).is_file() for name in _SOURCE_FILES):
        return None
    if gguf_file is None and (source_dir / TOKENIZER_FILE).is_file():
        found = _read_tokenizer_file(source_dir)
    else:
        if gguf_file is not None:
            path = source_dir / gguf_file
            check_gguf_templates(path, gguf_header(path).fields)
        found = ReadTokenizer(_from_pretrained(AutoTokenizer, source_dir, gguf_file))
    backend_of(found.tokenizer)
    template = chat_template(found.tokenizer)
    if template is not None:
        check_template(template, source_dir / (gguf_file or ""))
    return found


def _read_tokenizer_file(source_dir: Path) -> ReadTokenizer:
    usual: PreTrainedTokenizerBase | None
    try:
        usual = _from_pretrained(AutoTokenizer, source_dir)
    except PairError:  # a class that is not known here; the file needs none
        usual = None
    own = _from_pretrained(TokenizersBackend, source_dir)
    if usual is None:
        return ReadTokenizer(own)
    different = None
    if isinstance(getattr(usual, "backend_tokenizer", None), tokenizers.Tokenizer):
        different = _first_difference(own, usual)
        if different is None:
            return ReadTokenizer(usual)
    for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
        text = getattr(usual, role)  # a class can state what no file does
        if getattr(own, role) is None and text is not None and text in own.get_vocab():
            setattr(own, role, text)
    if different is None:
        return ReadTokenizer(own)
    return ReadTokenizer(
        own,
        f"the tokenizer of {source_dir} is read as tokenizer.json says; transformers' "
        f"{type(usual).__name__} gives other tokens, for example for {different!r}",
    )


def _first_difference(own: PreTrainedTokenizerBase, usual: PreTrainedTokenizerBase) -> str | None:
    """A text that the two read or write differently; None if there is none among those tried."""
    for text in (*_PROBES, *(str(token) for token in own.all_special_tokens)):
        ids = own.encode(text)
        if ids != usual.encode(text) or own.decode(ids) != usual.decode(ids):
            return text
    own_vocab, usual_vocab = own.get_vocab(), usual.get_vocab()
    different = (text for text, id in own_vocab.items() if usual_vocab.get(text) != id)
    return next(different, None)


def _from_pretrained(
    loader: type[AutoTokenizer] | type[TokenizersBackend],
    source_dir: Path,
    gguf_file: str | None = None,
) -> PreTrainedTokenizerBase:
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        with naming_system_errors(PairError), plain_arrays() if gguf_file else nullcontext():
            tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
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
    template = chat_template(tokenizer) or default_template
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


def _special(text: str | None, id: int | None) -> SpecialToken | None:
    return None if text is None or id is None else SpecialToken(str(text), id)
