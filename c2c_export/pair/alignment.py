"""Which Sharer token stands for each Receiver token: a table, computed once when a bundle is built.

The rule is that of the published fusers' training. A Receiver token's text is encoded by the
Sharer's tokenizer; one token is taken as it is, of several the strategy chooses. Special tokens map
by role, then by text. What has no counterpart maps to the Sharer's unknown token, or to 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import tokenizers
from transformers import PreTrainedTokenizerBase

from c2c_export.reading.tokenizers import backend_copy
from c2c_runtime.progress import OnProgress, unheard

Strategy = Literal["first", "longest"]

_BATCH = 8192  # tokens encoded at a time, between two calls of ``on_progress``


def build_alignment(
    receiver: PreTrainedTokenizerBase,
    sharer: PreTrainedTokenizerBase,
    receiver_vocab_size: int,
    sharer_vocab_size: int,
    strategy: Strategy,
    on_progress: OnProgress = unheard,
) -> npt.NDArray[np.int32]:
    """The Sharer id of every Receiver id, int32 ``[receiver_vocab_size]``, all below
    ``sharer_vocab_size``.

    The sizes are the models' vocabularies; a tokenizer can know fewer ids or more. ``strategy``:
    ``first`` takes the first of several Sharer tokens, ``longest`` the one with the most
    characters (the first of equals). Incomplete characters all read U+FFFD and so map to one
    Sharer token. ``on_progress`` is told the share of Receiver ids that is done.

    Raises ``PairError`` if one of them is not a fast tokenizer.
    """
    source = backend_copy(receiver)
    target = backend_copy(sharer)
    fallback = _in_vocabulary(sharer.unk_token_id, sharer_vocab_size, otherwise=0)
    table = np.full(receiver_vocab_size, fallback, dtype=np.int64)

    for start in range(0, receiver_vocab_size, _BATCH):
        stop = min(start + _BATCH, receiver_vocab_size)
        texts = source.decode_batch([[id] for id in range(start, stop)], skip_special_tokens=False)
        encodings = target.encode_batch_fast(texts, add_special_tokens=False)
        candidates = [encoding.ids for encoding in encodings]
        chosen = _first(candidates) if strategy == "first" else _longest(candidates, target)
        for id, sharer_id in zip(range(start, stop), chosen, strict=True):
            if sharer_id is not None:
                table[id] = sharer_id
        on_progress(stop / receiver_vocab_size, "align the tokenizers")

    for id in receiver.all_special_ids:
        if 0 <= id < receiver_vocab_size:
            text = source.decode([id], skip_special_tokens=False)
            special = _special_counterpart(id, text, receiver, sharer, target)
            table[id] = fallback if special is None else special
    table[table >= sharer_vocab_size] = fallback
    return table.astype(np.int32)


def same_ids(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether no id stands for different tokens on the two sides, so that ids can be shared.

    One side may know more tokens than the other, as Qwen3 does next to Qwen2.5.
    """
    first, second = ({id: text for text, id in t.get_vocab().items()} for t in (a, b))
    return all(first[id] == second[id] for id in first.keys() & second.keys())


def _first(candidates: Sequence[Sequence[int]]) -> Iterator[int | None]:
    for ids in candidates:
        yield ids[0] if ids else None


def _longest(
    candidates: Sequence[Sequence[int]], target: tokenizers.Tokenizer
) -> Iterator[int | None]:
    unique = sorted({id for ids in candidates if len(ids) > 1 for id in ids})
    texts = target.decode_batch([[id] for id in unique], skip_special_tokens=False)
    length = {id: len(text) for id, text in zip(unique, texts, strict=True)}
    for ids in candidates:
        if len(ids) > 1:
            yield max(ids, key=length.__getitem__)  # the first of equals
        else:
            yield ids[0] if ids else None


def _special_counterpart(
    id: int,
    text: str,
    receiver: PreTrainedTokenizerBase,
    sharer: PreTrainedTokenizerBase,
    target: tokenizers.Tokenizer,
) -> int | None:
    """By role, then by text. Of several roles of one id the last listed counts, which matters
    where a tokenizer uses one token as pad and as EOS."""
    roles = {
        _pad_or_eos(receiver): _pad_or_eos(sharer),
        receiver.eos_token_id: sharer.eos_token_id,
        receiver.bos_token_id: sharer.bos_token_id,
        receiver.unk_token_id: sharer.unk_token_id,
    }
    by_role: int | None = roles.get(id)
    return by_role if by_role is not None else target.token_to_id(text)


def _pad_or_eos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    pad: int | None = tokenizer.pad_token_id
    eos: int | None = tokenizer.eos_token_id
    return eos if pad is None else pad


def _in_vocabulary(id: int | None, vocab_size: int, otherwise: int) -> int:
    return id if id is not None and 0 <= id < vocab_size else otherwise
