"""A bundle's tokenizer: text -> ids, ids -> text, messages -> prompt text. Needs no transformers.

Files of one tokenizer directory: ``tokenizer.json`` and, where the manifest says so,
``chat_template.jinja``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import tokenizers

from c2c_runtime.bundle.manifest import TokenizerSpec
from c2c_runtime.errors import BundleError, CapacityError, UsageError
from c2c_runtime.machine.process_memory import return_freed_memory
from c2c_runtime.text.chat_template import ChatTemplate
from c2c_runtime.text.messages import Message
from c2c_runtime.text.token_bound import TokenBound

TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
_SHORT = 8  # characters a token of texts that are not worth a look before they are read
_LARGE = 2**20  # characters of a tokenizer.json


class Tokenizer:
    """One model's tokenizer and chat template. Safe to share between threads.

    ``bos_id``, ``eos_id``, ``pad_id``, ``unk_id``: ids by role, None where the model has none.
    ``special_ids``: every id that ``decode`` leaves out.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        spec: TokenizerSpec,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self._backend = backend
        self._chat_template = chat_template
        self._bound: TokenBound | None = None
        self.spec = spec
        self.bos_id = spec.bos.id if spec.bos else None
        self.eos_id = spec.eos.id if spec.eos else None
        self.pad_id = spec.pad.id if spec.pad else None
        self.unk_id = spec.unk.id if spec.unk else None
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)

    @classmethod
    def load(cls, directory: Path, spec: TokenizerSpec, written_by: str | None = None) -> Tokenizer:
        """The tokenizer in ``directory``.

        ``written_by``: version of the ``tokenizers`` library that wrote the file (the manifest's
        ``tools``), for the error message.

        Raises ``BundleError`` if a file is missing or cannot be read by the installed library.
        """
        backend = _load_backend(directory / TOKENIZER_FILE, written_by)
        template = None
        if spec.has_chat_template:
            path = directory / CHAT_TEMPLATE_FILE
            whose = whose_tokenizer(spec)
            template = ChatTemplate(_read(path), _special_tokens(spec), str(path), whose)
        return cls(backend, spec, template)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. The model's own vocabulary can be larger."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def has_chat_template(self) -> bool:
        """Whether ``render_chat`` works."""
        return self._chat_template is not None

    @property
    def has_byte_fallback(self) -> bool:
        """Whether tokens ``<0x00>`` .. ``<0xFF>`` stand for single bytes."""
        return "ByteFallback" in str(self._backend.decoder)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of ``text``. Special tokens written out in the text become their ids."""
        return list(self._encode(text, add_special_tokens).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids without BOS and the like, and the characters ``text[start:end]`` of each.

        Several tokens that share one character each carry that character's whole range.
        """
        encoding = self._encode(text, add_special_tokens=False)
        return list(encoding.ids), [(start, end) for start, end in encoding.offsets]

    def require_room(self, text: str, max_tokens: int) -> None:
        """Raise ``CapacityError`` where ``text`` has more tokens for certain, told without reading it:
        ten million characters would take half a minute. Any other text may still turn out too long."""
        if len(text) <= _SHORT * max_tokens:
            return
        self._bound = self._bound or TokenBound(self._backend)
        num_tokens = self._bound.min_num_tokens(text)
        if num_tokens > max_tokens:
            raise CapacityError(
                f"the prompt of {len(text)} characters has at least {num_tokens} tokens; the caches hold "
                f"{max_tokens}",
                "give a shorter prompt, or build the bundle with a larger --max-seq-len",
            )

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ``ids``. Ids without a token add nothing; incomplete characters show as U+FFFD."""
        try:
            return str(self._backend.decode(ids, skip_special_tokens=skip_special_tokens))
        except (OverflowError, TypeError) as error:
            raise UsageError(
                f"these are not token ids: {error}", "give integers of 0 or more"
            ) from error

    def token_text(self, id: int) -> str | None:
        """The token as the vocabulary spells it (``Ġthe``, ``▁the``, ``<0x0A>``), or None."""
        token = self._backend.id_to_token(id)
        return None if token is None else str(token)

    def token_id(self, text: str) -> int | None:
        """Id of the token that the vocabulary spells ``text``, or None."""
        id = self._backend.token_to_id(text)
        return None if id is None else int(id)

    def render_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        enable_thinking: bool = False,
        **extra: Any,
    ) -> str:
        """The prompt text of a chat. Encode it with ``add_special_tokens=False``: the template
        writes BOS itself.

        Raises ``UsageError`` if there is no template or it refuses the messages.
        """
        if self._chat_template is None:
            raise UsageError(
                f"{whose_tokenizer(self.spec)} checkpoint has no chat template",
                "give a plain prompt, or build the bundle from a checkpoint with a chat template",
            )
        return self._chat_template.render(
            messages, add_generation_prompt, enable_thinking=enable_thinking, **extra
        )

    def _encode(self, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeEncodeError) as error:
            raise UsageError(
                f"this text cannot be tokenized: {error}",
                "give valid Unicode text, without lone surrogates",
            ) from error


def whose_tokenizer(spec: TokenizerSpec) -> str:
    """``the Receiver's`` or ``Sharer 1's``, for messages."""
    role = PurePosixPath(spec.path).name
    number = role.removeprefix("sharer")
    return f"Sharer {number}'s" if number.isdigit() else f"the {role.capitalize()}'s"


def _special_tokens(spec: TokenizerSpec) -> dict[str, str]:
    """The variables that chat templates know special tokens by."""
    roles = {"bos": spec.bos, "eos": spec.eos, "pad": spec.pad, "unk": spec.unk}
    return {f"{role}_token": token.text for role, token in roles.items() if token is not None}


def _load_backend(path: Path, written_by: str | None) -> tokenizers.Tokenizer:
    content = _read(path)
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing more specific
        writer = f"tokenizers {written_by}" if written_by else "a newer version"
        raise BundleError.of(
            f"{path} cannot be read by the installed tokenizers {tokenizers.__version__}: "
            f"{error}. It was written by {writer}, or it is damaged",
            f'pip install --upgrade "tokenizers>={written_by or tokenizers.__version__}", '
            "or build the bundle again",
        ) from error
    backend.no_padding()
    backend.no_truncation()
    if len(content) > _LARGE:
        del content
        return_freed_memory()  # reading a vocabulary of 262144 tokens frees 190 MB
    return backend


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError.of(
            f"cannot read {path}: {error}", "copy the bundle again, or build it again"
        ) from error
