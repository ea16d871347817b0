"""A session: one bundle's weights, loaded once and shared by its conversations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from c2c_runtime import names
from c2c_runtime.alignment import Section, load_alignment, sections_from_chat, sections_from_ids
from c2c_runtime.backend import Backend, Graph, Memory
from c2c_runtime.backend_choice import Wish
from c2c_runtime.bundle import Bundle
from c2c_runtime.conversation import Conversation
from c2c_runtime.devices import open_backend
from c2c_runtime.errors import C2CError, UsageError
from c2c_runtime.generation import Answer, GenerationOptions, Piece
from c2c_runtime.ort_backend import OrtBackend
from c2c_runtime.tokenizer import Tokenizer


class Session:
    """An open bundle. Use as a context manager, or call ``close``.

    Graphs load on first use, so a session that answers with the Receiver alone never loads a Sharer.
    """

    def __init__(self, bundle: Bundle, backend: Backend | None = None) -> None:
        """``backend`` None: ONNX Runtime on the CPU. The session closes it."""
        self.bundle = bundle
        self._backend = backend or OrtBackend(bundle)
        self._graphs: dict[str, Graph] = {}
        manifest = bundle.manifest
        self._tokenizers = {
            role: Tokenizer.load(bundle.path_of(spec.path), spec, manifest.tools.get("tokenizers"))
            for role, spec in manifest.tokenizers.items()
        }
        self._alignments: list[np.ndarray | None] = [
            load_alignment(bundle.path_of(manifest.alignments[role]))
            if (role := names.sharer(number)) in manifest.alignments
            else None
            for number in range(1, len(manifest.pair.sharers) + 1)
        ]

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: Wish = "auto",
        num_threads: int | None = None,
        cuda_stream: int | None = None,
        check_hashes: bool = True,
    ) -> Session:
        """Open the bundle at ``path`` and load the Receiver.

        ``device``: where to run, see ``backend_choice``. ``num_threads``: of a CPU; None: one a
        core. ``cuda_stream``: a cudaStream_t of the caller that the Receiver and the Fuser run on.
        Every file is hashed while the Receiver loads; ``check_hashes=False`` trusts the disk.
        Raises ``BundleError`` with every problem found, ``UnavailableError`` if this machine cannot
        run the bundle.
        """
        bundle = Bundle.open(path, with_engines=device in ("auto", "tensorrt"))
        backend = open_backend(bundle, device, num_threads=num_threads, cuda_stream=cuda_stream)
        if not check_hashes:
            return cls._load(bundle, backend)
        with ThreadPoolExecutor(1, thread_name_prefix="c2c-hash") as pool:
            hashes = pool.submit(bundle.check_hashes)
            try:
                session = cls._load(bundle, backend)
            except C2CError:
                hashes.result()  # a damaged file explains a failed load better than the load does
                raise
            try:
                hashes.result()
            except C2CError:
                session.close()
                raise
        return session

    @classmethod
    def _load(cls, bundle: Bundle, backend: Backend) -> Session:
        """A session with its Receiver loaded; the backend is closed if that fails."""
        try:
            session = cls(bundle, backend)
            session.graph(names.RECEIVER)
        except BaseException:
            backend.close()
            raise
        return session

    @property
    def memory(self) -> Memory:
        """Where caches of this session live."""
        return self._backend.memory

    def graph(self, role: str) -> Graph:
        """The loaded graph of a role; loads it on first use."""
        if role not in self._graphs:
            self._graphs[role] = self._backend.load(role)
        return self._graphs[role]

    def conversation(self) -> Conversation:
        """A new conversation with caches of its own."""
        return Conversation(self)

    def tokenizer(self, role: str = names.RECEIVER) -> Tokenizer:
        """The tokenizer of a role. ``UsageError`` where the bundle was built without tokenizers."""
        if role not in self._tokenizers:
            raise UsageError(
                f"this bundle holds no tokenizer for {role}: its checkpoint had none",
                "give token ids (--prompt-ids on the command line)",
            )
        return self._tokenizers[role]

    @property
    def has_tokenizer(self) -> bool:
        """Whether the Receiver's text can be read and written, not only its token ids."""
        return names.RECEIVER in self._tokenizers

    def sections_of_ids(
        self, ids: Sequence[int], sections: Sequence[tuple[int, int]] | None = None
    ) -> list[Section]:
        """Sections of Receiver ids: (length, Sharer mask) each, or all tokens but the last fused."""
        vocab_size = self.bundle.manifest.pair.receiver.vocab_size
        return sections_from_ids(ids, self._alignments, sections, vocab_size)

    def sections_of_text(self, text: str) -> list[Section]:
        """Sections of a plain prompt, without a chat template: all tokens but the last fused."""
        if not text:
            raise UsageError("the prompt is empty", "give some text")
        return self.sections_of_ids(self.tokenizer().encode(text))

    def sections_of_chat(
        self, messages: Sequence[dict[str, str]], *, enable_thinking: bool = False
    ) -> list[Section]:
        """Sections of a chat: message content fused, template tokens not."""
        sharers = [
            self.tokenizer(names.sharer(number)) for number in range(1, len(self._alignments) + 1)
        ]
        return sections_from_chat(
            messages, self.tokenizer(), sharers, self._alignments, enable_thinking=enable_thinking
        )

    def answer(
        self,
        sections: Sequence[Section],
        options: GenerationOptions | None = None,
        conversation: Conversation | None = None,
    ) -> Answer:
        """Answer a prompt; iterate over the result for pieces, or call its ``finish``.

        ``conversation``: caches to use; what they hold of the prompt's beginning is not run again, so
        the next turn of a chat is all its messages in the conversation of the turn before. None: a
        new one. Nothing runs before the first piece is asked for.
        """
        return Answer(self, conversation, sections, options or GenerationOptions())

    def chat(self, messages: Sequence[dict[str, str]], **options: Any) -> Iterator[Piece]:
        """Stream the answer to a chat. Options are those of ``GenerationOptions``."""
        return iter(self.answer(self.sections_of_chat(messages), GenerationOptions(**options)))

    def close(self) -> None:
        """Release the graphs and, on a GPU, the caches of every conversation."""
        self._graphs.clear()
        self._backend.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
