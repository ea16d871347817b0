"""An open bundle: what conversations share. Its graphs, where caches live, and kept beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from c2c_runtime.backends.backend import Backend, Graph, Memory
from c2c_runtime.backends.loaded_graphs import LoadedGraphs
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.chain.prefix_store import PrefixStore


@dataclass(frozen=True)
class OpenBundle:
    """A bundle and the backend that runs it. Safe to share between threads, but for ``close``."""

    bundle: Bundle
    backend: Backend
    graphs: LoadedGraphs
    prefixes: PrefixStore

    @classmethod
    def on(
        cls, bundle: Bundle, backend: Backend, *, check_hashes: bool = False, prefix_bytes: int = 0
    ) -> OpenBundle:
        """``bundle`` on ``backend``, nothing loaded yet. ``check_hashes``: of a graph's files when it
        loads. ``prefix_bytes``: how much of earlier prompts' caches is kept (``prefix_store``)."""
        graphs = LoadedGraphs(bundle, backend, check_hashes=check_hashes)
        return cls(bundle, backend, graphs, PrefixStore(prefix_bytes))

    @property
    def memory(self) -> Memory:
        """Where caches live."""
        return self.backend.memory

    @property
    def max_pass_len(self) -> int | None:
        """Tokens that one run of a model should read at most here; None: as many as its graph takes."""
        return self.backend.max_pass_len

    @property
    def fusing_roles(self) -> tuple[str, ...]:
        """The graphs that a conversation with its Sharers needs besides the Receiver."""
        sharers = enumerate(self.bundle.manifest.pair.sharers, start=1)
        roles = [names.sharer(number) for number, sharer in sharers if sharer.num_cached_layers]
        return (*roles, names.FUSER) if self.bundle.has_graph(names.FUSER) else tuple(roles)

    def require_open(self) -> None:
        """Raise ``UsageError`` where this was closed: it loads nothing again, and answers no more."""
        self.graphs.require_open()

    def graph(self, role: str) -> Graph:
        """The loaded graph of a role; loads it on first use."""
        return self.graphs.get(role)

    def load(self, roles: Sequence[str]) -> None:
        """Load graphs that are not loaded yet, side by side."""
        self.graphs.load(roles)

    def close(self) -> None:
        """Let go of the graphs and of what is kept, and close the backend."""
        self.prefixes.clear()
        self.graphs.close()
        self.backend.close()
