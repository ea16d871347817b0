"""The graphs of one session: each loaded once, side by side where several are asked for, and checked.

A file is hashed while the graph that it belongs to loads, so that nothing unchecked ever runs and
nobody waits for files that this backend does not use.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from c2c_runtime.backends.backend import Backend, Graph
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import C2CError, UsageError


class LoadedGraphs:
    """Graphs by role. Safe to share between threads."""

    def __init__(self, bundle: Bundle, backend: Backend, *, check_hashes: bool) -> None:
        self._bundle = bundle
        self._backend = backend
        self._check_hashes = check_hashes
        self._graphs: dict[str, Graph] = {}
        self._is_closed = False
        self._lock = threading.Lock()

    def get(self, role: str) -> Graph:
        """The graph of a role; loads it on first use."""
        self.load([role])
        return self._graphs[role]

    def require_open(self) -> None:
        """Raise ``UsageError`` where the session was closed."""
        if self._is_closed:
            raise UsageError("this session is closed", "open the bundle again with Session.open")

    def load(self, roles: Sequence[str]) -> None:
        """Load what is not loaded yet. Raises the first error in the order of ``roles``, and
        ``UsageError`` where the session was closed.

        Waits for nobody where all are loaded: conversations ask before every section.
        """
        if all(role in self._graphs for role in roles):
            return
        with self._lock:
            self.require_open()
            missing = [role for role in dict.fromkeys(roles) if role not in self._graphs]
            if len(missing) > 1 and self._backend.loads_in_threads:
                with ThreadPoolExecutor(len(missing), thread_name_prefix="c2c-load") as pool:
                    loaded = list(pool.map(self._load, missing))
            else:
                loaded = [self._load(role) for role in missing]
            self._graphs.update(zip(missing, loaded, strict=True))

    def close(self) -> None:
        """Let go of every graph, and load none again."""
        with self._lock:
            self._is_closed = True
            self._graphs.clear()

    def _load(self, role: str) -> Graph:
        files = self._backend.files_to_check(role) if self._check_hashes else []
        if not files:
            return self._backend.load(role)
        with ThreadPoolExecutor(1, thread_name_prefix="c2c-hash") as pool:
            hashes = pool.submit(self._bundle.check_hashes, None, files)
            try:
                graph = self._backend.load(role)
            except C2CError:
                hashes.result()  # a damaged file explains a failed load better than the load does
                raise
            hashes.result()
        return graph
