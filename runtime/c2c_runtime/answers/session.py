"""A session: one bundle's weights, loaded once and shared by its conversations."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from c2c_runtime.answers.baseline_answer import MessageAnswer, sharer_answer
from c2c_runtime.answers.generation import Answer, GenerationOptions, Piece, check_mode_of_ids
from c2c_runtime.answers.prompt_reader import PromptReader
from c2c_runtime.arguments import (
    check_choice,
    check_count,
    check_kind,
    check_names,
    check_switch,
)
from c2c_runtime.backends.backend import Backend
from c2c_runtime.backends.devices import open_backend
from c2c_runtime.backends.ort_backend import OrtBackend
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.chain.conversation import Conversation
from c2c_runtime.chain.open_bundle import OpenBundle
from c2c_runtime.machine.backend_choice import DEVICES, Wish
from c2c_runtime.machine.cores import check_num_threads
from c2c_runtime.sections.alignment import Section
from c2c_runtime.sections.section_texts import SectionText
from c2c_runtime.text.messages import Message
from c2c_runtime.text.text_to_text import Prompt
from c2c_runtime.text.tokenizer import Tokenizer

_WARM_UP_TOKENS = 16


class Session:
    """An open bundle. Use as a context manager, or call ``close``.

    Graphs load on first use, so a session that answers with the Receiver alone never loads a Sharer;
    tokenizers, too. Safe to share between threads, but for ``close``.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend | None = None,
        *,
        check_hashes: bool = False,
        prefix_bytes: int = 0,
        open_backend: Callable[[Bundle], Backend] = OrtBackend,
    ) -> None:
        """``backend`` None: what ``open_backend`` gives. The session closes it. ``check_hashes``: of a
        graph's files when it loads. ``open_backend``: for Sharers that speak, too; ONNX Runtime on the
        CPU."""
        self._open_backend = open_backend
        self._check_hashes = check_hashes
        self._sharers: dict[int, Session] = {}
        self._lock = threading.Lock()
        self.opened = OpenBundle.on(
            bundle,
            backend or open_backend(bundle),
            check_hashes=check_hashes,
            prefix_bytes=prefix_bytes,
        )
        self.reader = PromptReader(self.opened)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: Wish = "auto",
        num_threads: int | None = None,
        cuda_stream: int | None = None,
        check_hashes: bool = True,
        preload: bool = False,
        warm_up: bool = False,
        prefix_bytes: int = 0,
    ) -> Session:
        """Open the bundle at ``path`` and load the Receiver.

        ``device``: where to run, see ``backend_choice``. ``num_threads``: of a CPU, four times its number
        of CPUs at most; None: one a core. ``cuda_stream``: a cudaStream_t of the caller that the Receiver and the Fuser run on.
        ``preload``: load every graph now, side by side. ``warm_up``: run every graph once, too.
        ``prefix_bytes``: how much of earlier prompts' caches is kept for those that begin the same
        way (``prefix_store``); 0: nothing.

        What a file holds is checked against its sha256 before it is used: those of a graph while the
        graph loads, all others here; ``check_hashes=False`` trusts the disk.
        Raises ``UsageError`` for arguments that make no sense, ``BundleError`` with every problem found,
        ``UnavailableError`` if this machine cannot run the bundle.
        """
        check_kind("path", path, (str, os.PathLike), "the path of a bundle")
        check_choice("device", device, DEVICES)
        check_num_threads(num_threads)
        check_count("cuda_stream", cuda_stream, or_none=True)
        for name, switch in (
            ("check_hashes", check_hashes),
            ("preload", preload),
            ("warm_up", warm_up),
        ):
            check_switch(name, switch)
        check_count("prefix_bytes", prefix_bytes, meaning="0: nothing is kept")
        bundle = Bundle.open(path, with_engines=device in ("auto", "tensorrt"))
        if check_hashes:
            bundle.check_hashes(files=bundle.common_files)
        open_one = partial(
            open_backend, wish=device, num_threads=num_threads, cuda_stream=cuda_stream
        )
        backend = open_one(bundle)
        try:
            session = cls(
                bundle,
                backend,
                check_hashes=check_hashes,
                prefix_bytes=prefix_bytes,
                open_backend=open_one,
            )
            opened = session.opened
            opened.load([names.RECEIVER, *(opened.fusing_roles if preload or warm_up else ())])
            if warm_up:
                session.warm_up()
        except BaseException:
            backend.close()
            raise
        return session

    @property
    def bundle(self) -> Bundle:
        """What is open."""
        return self.opened.bundle

    def warm_up(self) -> None:
        """Run every graph once, on a conversation of its own: the first call of a graph is slower.

        For servers, before the first request. Nothing is kept of it.
        """
        limits = self.bundle.manifest.limits
        num_tokens = max(1, min(limits.max_prompt_len, limits.max_seq_len - 2, _WARM_UP_TOKENS))
        conversation = self.conversation()
        *fused, last = self.sections_of_ids([0] * (num_tokens + 1))
        # Not `prefill`, which keeps a beginning of a prompt, or finds one.
        conversation.extend(fused)
        conversation.decode(last.receiver_ids)
        conversation.decode([0])

    def conversation(self) -> Conversation:
        """A new conversation with caches of its own."""
        return self.reader.conversation()

    def tokenizer(self, role: str = names.RECEIVER) -> Tokenizer:
        """The tokenizer of a role. ``UsageError`` where the bundle was built without tokenizers."""
        return self.reader.tokenizer(role)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the Receiver's text can be read and written, not only its token ids."""
        return self.reader.has_tokenizer

    def sharer(self, number: int = 1) -> Session:
        """A session in which Sharer ``number`` (from 1) is the Receiver, and answers by itself.

        Opened on first use, on the same kind of device, and closed with this one.
        Raises ``UsageError`` if the bundle was built without ``--with-baselines``.
        """
        check_count("number", number, 1)
        with self._lock:
            self.opened.require_open()
            if number not in self._sharers:
                bundle = self.bundle.baseline(number)
                if self._check_hashes:  # the rest of its files was checked when this session opened
                    checked = set(self.bundle.common_files)
                    bundle.check_hashes(files=set(bundle.common_files) - checked)
                self._sharers[number] = Session(
                    bundle,
                    check_hashes=self._check_hashes,
                    open_backend=self._open_backend,
                )
            return self._sharers[number]

    def sections_of_ids(
        self, ids: Sequence[int], sections: Sequence[tuple[int, int]] | None = None
    ) -> list[Section]:
        """Sections of Receiver ids: (length, Sharer mask) each, or all tokens but the last fused."""
        return self.reader.sections_of_ids(ids, sections)

    def sections_of_text(self, text: str) -> list[Section]:
        """Sections of a plain prompt, without a chat template: all tokens but the last fused."""
        return self.reader.sections_of_text(text)

    def sections_of_chat(
        self, messages: Sequence[Message], *, enable_thinking: bool = False
    ) -> list[Section]:
        """Sections of a chat: message content fused, template tokens not."""
        return self.reader.sections_of_chat(messages, enable_thinking=enable_thinking)

    def sections_of_texts(self, texts: Sequence[SectionText]) -> list[Section]:
        """Sections of a plain prompt, each of which says whether it is fused and what the Sharers read."""
        return self.reader.sections_of_texts(texts)

    def sections_of(
        self, prompt: Prompt, *, enable_thinking: bool = False, alone: bool = False
    ) -> list[Section]:
        """Sections of a plain prompt or of a chat. ``alone``: what the Receiver alone reads, the same ids
        without the Sharers', whose templates are not asked then."""
        return self.reader.sections_of(prompt, enable_thinking=enable_thinking, alone=alone)

    def ask(
        self,
        prompt: Prompt,
        options: GenerationOptions | None = None,
        conversation: Conversation | None = None,
        *,
        enable_thinking: bool = False,
    ) -> Answer:
        """Answer a plain prompt or the messages of a chat, in any mode; see ``answer``.

        ``conversation``: in mode ``sharer`` one of ``session.sharer(1)``, else of this session.
        """
        options = GenerationOptions() if options is None else options
        check_kind("options", options, GenerationOptions, "GenerationOptions")
        if options.mode == "sharer":
            sharer = self.sharer(1).reader
            return sharer_answer(
                sharer, prompt, options, conversation, enable_thinking=enable_thinking
            )
        if options.mode == "t2t":
            return MessageAnswer(
                self.reader,
                [self.sharer(n + 1).reader for n in range(len(self.bundle.manifest.pair.sharers))],
                prompt,
                options,
                conversation,
                enable_thinking=enable_thinking,
            )
        alone = options.mode == "receiver"
        sections = self.sections_of(prompt, enable_thinking=enable_thinking, alone=alone)
        return self.answer(sections, options, conversation)

    def answer(
        self,
        sections: Sequence[Section],
        options: GenerationOptions | None = None,
        conversation: Conversation | None = None,
    ) -> Answer:
        """Answer a prompt; iterate over the result for pieces, or call its ``finish``.

        ``conversation``: caches to use; what they hold of the prompt's beginning is not run again, so
        the next turn of a chat is all its messages in the conversation of the turn before. None: a
        new one. Nothing runs before the first piece is asked for. Token ids are the Receiver's, so the
        modes ``sharer`` and ``t2t`` are ``ask``'s alone: ``UsageError``.
        """
        options = GenerationOptions() if options is None else options
        check_kind("options", options, GenerationOptions, "GenerationOptions")
        check_mode_of_ids(options.mode, self.bundle)
        return Answer(self.reader, conversation, sections, options)

    def chat(self, messages: Sequence[Message], **options: Any) -> Iterator[Piece]:
        """Stream the answer to a chat. Options are those of ``GenerationOptions``."""
        known = tuple(field.name for field in fields(GenerationOptions))
        check_names("GenerationOptions", options, known)
        return iter(self.ask(messages, GenerationOptions(**options)))

    def close(self) -> None:
        """Release the graphs and, on a GPU, the caches of every conversation; nothing is answered any more.

        On a CPU a graph lives as long as a session or a conversation of this process uses it.
        """
        for sharer in self._sharers.values():
            sharer.close()
        self._sharers.clear()
        self.opened.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
