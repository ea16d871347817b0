"""Every tensor name of every graph, with its shape and dtype: the contract of graphs and runtime.

The runtime consumes the graphs, so it owns their names; the compiler imports them from here.

| tensor | dtype | shape | meaning |
|---|---|---|---|
| ``token_ids`` | int64 | [batch, tokens] | ids to append |
| ``positions`` | int64 | [batch, tokens] | rotary position of each; may run ahead of the cache length |
| ``past_length`` | int64 | [batch] | valid tokens in the cache before this call |
| ``key_positions`` | int64 | [batch, max_seq_len] | position of every cached token, the appended ones included; an input only of graphs with sliding-window layers |
| ``past.L.key``, ``past.L.value`` | cache dtype | [batch, kv_heads, max_seq_len, head_dim] | cache of layer L |
| ``present.L.key``, ``present.L.value`` | as past | as past | the same memory, after the write |
| ``logits`` | float32 | [batch, vocab_size] | of the last token only |
| ``top_ids`` | int64 | [batch, 64] | ids of the largest logits, the largest first (fewer than 64 of a smaller vocabulary); outputs of the TensorRT dialects |
| ``top_logits`` | float32 | [batch, 64] | their logits |
| ``sharerN.L.key``, ``sharerN.L.value`` | cache dtype | [batch, kv_heads, max_seq_len, head_dim] | Sharer N's cache, read by the Fuser |
| ``slots`` | int64 | [tokens] | consecutive cache slots of the section in the Receiver's cache |
| ``sharerN.slots`` | int64 | [tokens] | consecutive cache slots of the section in Sharer N's cache |
| ``sharerN.enabled`` | bool | [1] | whether to fuse Sharer N; an input only with several Sharers |

L counts layers from 0, N counts Sharers from 1. ``key`` caches hold keys after rotary embedding.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["key", "value"]
KINDS: tuple[Kind, Kind] = ("key", "value")

TOKEN_IDS = "token_ids"
POSITIONS = "positions"
PAST_LENGTH = "past_length"
KEY_POSITIONS = "key_positions"
LOGITS = "logits"
TOP_IDS = "top_ids"
TOP_LOGITS = "top_logits"
SLOTS = "slots"

MAX_TOP_LOGITS = 64  # of how many tokens a graph for GPUs gives the largest logits

RECEIVER = "receiver"
FUSER = "fuser"
_BASELINE = "_speaker"


def past(layer: int, kind: Kind) -> str:
    """Name of a cache as a graph input, ``past.{layer}.{kind}``."""
    return f"past.{layer}.{kind}"


def present(layer: int, kind: Kind) -> str:
    """Name of the same cache as a graph output, ``present.{layer}.{kind}``."""
    return f"present.{layer}.{kind}"


def sharer(number: int) -> str:
    """Role of Sharer ``number`` (from 1): its graph, tokenizer and alignment carry this name."""
    return f"sharer{number}"


def baseline(number: int) -> str:
    """Role of the whole Sharer ``number`` with its LM head, a baseline: it can answer by itself."""
    return f"{sharer(number)}{_BASELINE}"


def role_of_model(role: str) -> str:
    """The role of the model that a graph comes from: that of its Sharer for a baseline, else its own."""
    return role.removesuffix(_BASELINE)


def sharer_cache(number: int, layer: int, kind: Kind) -> str:
    """Name of a Sharer's cache as an input of the Fuser graph."""
    return f"{sharer(number)}.{layer}.{kind}"


def sharer_slots(number: int) -> str:
    """Name of the Fuser input that says where the section lies in Sharer ``number``'s cache."""
    return f"{sharer(number)}.slots"


def sharer_enabled(number: int) -> str:
    """Name of the Fuser input that switches Sharer ``number`` on or off."""
    return f"{sharer(number)}.enabled"
