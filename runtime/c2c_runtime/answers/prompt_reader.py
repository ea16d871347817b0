"""From a prompt to sections: the tokenizers and alignment tables of one open bundle."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from c2c_runtime.arguments import check_kind, check_switch, check_text
from c2c_runtime.bundle import names
from c2c_runtime.chain.conversation import Conversation
from c2c_runtime.chain.open_bundle import OpenBundle
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import (
    Section,
    load_alignment,
    sections_from_chat,
    sections_from_ids,
)
from c2c_runtime.sections.section_texts import SectionText, sections_from_texts
from c2c_runtime.text.messages import Message
from c2c_runtime.text.tokenizer import Tokenizer


class PromptReader:
    """Reads prompts for ``opened``. Tokenizers load on first use. Safe to share between threads."""

    def __init__(self, opened: OpenBundle) -> None:
        """Raises ``BundleError`` for an alignment table that cannot be read."""
        self.opened = opened
        self._tokenizers: dict[str, Tokenizer] = {}
        self._lock = threading.Lock()
        self._max_seq_len = opened.bundle.manifest.limits.max_seq_len
        bundle, manifest = opened.bundle, opened.bundle.manifest
        self._alignments: list[np.ndarray | None] = [
            load_alignment(bundle.path_of(manifest.alignments[role]))
            if (role := names.sharer(number)) in manifest.alignments
            else None
            for number in range(1, len(manifest.pair.sharers) + 1)
        ]

    def conversation(self) -> Conversation:
        """A new conversation with caches of its own."""
        return Conversation(self.opened)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the Receiver's text can be read and written, not only its token ids."""
        return names.RECEIVER in self.opened.bundle.manifest.tokenizers

    def tokenizer(self, role: str = names.RECEIVER) -> Tokenizer:
        """The tokenizer of a role. ``UsageError`` where the bundle was built without tokenizers."""
        check_text("role", role)
        bundle = self.opened.bundle
        spec = bundle.manifest.tokenizers.get(role)
        if spec is None:
            raise UsageError(
                f"this bundle holds no tokenizer for {role}: its checkpoint had none",
                "give a plain prompt instead of a chat, or token ids"
                if self.has_tokenizer
                else "give token ids (--prompt-ids on the command line)",
            )
        with self._lock:
            if role not in self._tokenizers:
                self._tokenizers[role] = Tokenizer.load(
                    bundle.path_of(spec.path), spec, bundle.manifest.tools.get("tokenizers")
                )
            return self._tokenizers[role]

    def sections_of_ids(
        self, ids: Sequence[int], sections: Sequence[tuple[int, int]] | None = None
    ) -> list[Section]:
        """Sections of Receiver ids: (length, Sharer mask) each, or all tokens but the last fused."""
        return sections_from_ids(ids, self._alignments, sections)

    def sections_of_text(self, text: str, *, alone: bool = False) -> list[Section]:
        """Sections of a plain prompt, without a chat template: all tokens but the last fused. ``alone``:
        what the Receiver alone reads, the same ids without the Sharers'."""
        check_text("text", text)
        if not text:
            raise UsageError("the prompt is empty", "give some text")
        self.tokenizer().require_room(text, self._max_seq_len)
        tables = [] if alone else self._alignments
        return sections_from_ids(self.tokenizer().encode(text), tables)

    def sections_of_chat(
        self, messages: Sequence[Message], *, enable_thinking: bool = False, alone: bool = False
    ) -> list[Section]:
        """Sections of a chat: message content fused, template tokens not. ``alone``: what the Receiver
        alone reads, the same ids; no Sharer's template is asked, which might refuse the chat."""
        check_switch("enable_thinking", enable_thinking)
        return sections_from_chat(
            messages,
            self.tokenizer(),
            [] if alone else self._sharer_tokenizers(),
            [] if alone else self._alignments,
            enable_thinking=enable_thinking,
            max_tokens=self._max_seq_len,
        )

    def sections_of_texts(self, texts: Sequence[SectionText]) -> list[Section]:
        """Sections of a plain prompt, each of which says whether it is fused and what the Sharers read."""
        check_kind("texts", texts, (list, tuple), "a list of SectionText")
        text = "".join(piece.text for piece in texts if isinstance(piece, SectionText))
        self.tokenizer().require_room(text, self._max_seq_len)
        return sections_from_texts(
            texts, self.tokenizer(), self._sharer_tokenizers(), self._alignments
        )

    def sections_of(
        self,
        prompt: str | Sequence[Message],
        *,
        enable_thinking: bool = False,
        alone: bool = False,
    ) -> list[Section]:
        """Sections of a plain prompt or of a chat. ``alone``: what the Receiver alone reads."""
        if isinstance(prompt, str):
            return self.sections_of_text(prompt, alone=alone)
        return self.sections_of_chat(prompt, enable_thinking=enable_thinking, alone=alone)

    def _sharer_tokenizers(self) -> list[Tokenizer]:
        numbers = range(1, len(self._alignments) + 1)
        return [self.tokenizer(names.sharer(number)) for number in numbers]
