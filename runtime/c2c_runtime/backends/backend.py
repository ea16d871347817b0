"""What a backend is to the runtime: memory for caches, and graphs that run over it.

Conversation, Batch and KVCache are written against this module alone. A backend is one class for each
protocol here: ONNX Runtime on CPU (``ort_backend``), ONNX Runtime on CUDA (``ort_cuda_backend``),
TensorRT (``trt_backend``).

Two kinds of memory flow through a graph. A **buffer** is allocated by ``Memory``, lives where the
backend computes and is opaque here. A **host array** is numpy: what the host writes before a call
(ids, positions, lengths) and reads after it (logits). On a CPU both are the same thing; elsewhere a
bound graph copies host arrays over at ``start`` and back at ``read``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Buffer = Any  # [batch, ...]; made and understood by one Memory only


class Memory(Protocol):
    """Where caches live, and the few things that are done to them outside of graphs."""

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """A buffer full of zeros. ``UnavailableError`` if there is no room for it."""
        ...

    def allocate_like(self, buffer: Buffer, shape: tuple[int, ...]) -> Buffer:
        """A buffer of another one's element type, full of zeros."""
        ...

    def host_array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A host array of zeros that can be copied over fast, for what changes at every call."""
        ...

    def rows(self, buffer: Buffer, start: int, stop: int) -> Buffer:
        """A view of some rows of the first axis."""
        ...

    def read(self, buffer: Buffer, length: int) -> np.ndarray:
        """Slots 0..length-1 of a cache [batch, kv_heads, max_seq_len, head_dim] on the host: a view
        where the memory is the host's, else a copy; bfloat16 comes as float32."""
        ...

    def write(self, buffer: Buffer, content: np.ndarray) -> None:
        """Write ``content`` [batch, kv_heads, n, head_dim] into slots 0..n-1 of a cache."""
        ...

    def copy(self, source: Buffer, target: Buffer, length: int) -> None:
        """Copy slots 0..length-1 from one cache to another, which may have another capacity."""
        ...

    def shape_of(self, buffer: Buffer) -> tuple[int, ...]:
        """A buffer's shape."""
        ...

    def size_bytes_of(self, buffer: Buffer) -> int:
        """The bytes a buffer occupies."""
        ...


class BoundGraph(Protocol):
    """A graph whose inputs and outputs are tied to memory."""

    def set_input(self, name: str, array: np.ndarray) -> None:
        """Tie an input to another host array, of another shape perhaps."""
        ...

    def start(self) -> None:
        """Begin to compute. What is tied to it may not change until ``wait`` returned."""
        ...

    def wait(self) -> None:
        """Return when everything started is complete."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The host array tied to an output, holding what the last call computed."""
        ...


class Graph(Protocol):
    """One loaded graph or engine."""

    @property
    def input_names(self) -> frozenset[str]:
        """Names of what it reads."""
        ...

    @property
    def output_names(self) -> frozenset[str]:
        """Names of what it writes."""
        ...

    def bind(
        self,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        *,
        is_fixed: bool = False,
    ) -> BoundGraph:
        """Tie memory to names. Names that the graph does not have are left out, so that a caller can
        offer everything it keeps; a name that the graph needs and is not offered is a KeyError, but
        for inputs that ``set_input`` gives before the first call. ``is_fixed``: no input is ever tied
        to anything else, so a backend may record the call and replay it."""
        ...


class Backend(Protocol):
    """One way of running a bundle on this machine."""

    @property
    def memory(self) -> Memory:
        """Where caches of this backend live."""
        ...

    @property
    def loads_in_threads(self) -> bool:
        """Whether ``load`` may be called by several threads at a time."""
        ...

    @property
    def max_pass_len(self) -> int | None:
        """Tokens that one run of a model should read at most: more in one run are slower, or take too
        much memory. None: as many as its graph takes."""
        ...

    def files_to_check(self, role: str) -> list[str]:
        """Files of the bundle that ``load`` reads without comparing them with the manifest."""
        ...

    def load(self, role: str) -> Graph:
        """Load the graph of a role. ``BundleError`` if it is damaged, ``UnavailableError`` if this
        machine cannot run it."""
        ...

    def close(self) -> None:
        """Free everything that was loaded and allocated."""
        ...
