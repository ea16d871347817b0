"""Everything that is read and checked before anything is traced: problems are reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from transformers import PreTrainedTokenizerBase

from c2c_export.fusers.fuser_checkpoint import FuserCheckpoint, LinkedLayers, read_fuser
from c2c_export.pair.alignment import same_ids
from c2c_export.pair.asked import ANY_LIMITS, Alignment, AskedLimits
from c2c_export.pair.links import pair_from_sources
from c2c_export.pair.pair import PairSource
from c2c_export.pair.preflight import TokenizerFacts, check_pair
from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_export.reading.end_of_turn import eos_ids
from c2c_export.reading.model_source import ModelSource
from c2c_export.reading.tokenizers import read_tokenizer
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import Limits, ModelDims, Pair
from c2c_runtime.errors import InputError, PairError, Problem
from c2c_runtime.text.chat_template import default_chat_template

T = TypeVar("T")


@dataclass(frozen=True)
class PreparedPair:
    """A pair that was found to fit together. Weights stay in their files until they are needed.

    ``tokenizers`` by role, of those that have one; empty if the Receiver has none. ``default_templates``:
    chat templates for Sharers that bring none. ``fusers``: one checkpoint a Sharer. ``notes``: what a
    user should know and no error says.
    """

    source: PairSource
    pair: Pair
    limits: Limits
    eos_ids: tuple[int, ...]
    tokenizers: dict[str, PreTrainedTokenizerBase]
    default_templates: dict[str, str]
    fusers: tuple[FuserCheckpoint, ...]
    notes: tuple[str, ...] = ()

    def load_fusers(self) -> list[LinkedLayers]:
        """Each Sharer's Fuser, read from its files."""
        return [fuser.load_linked_layers() for fuser in self.fusers]


def prepare_pair(
    source: PairSource,
    alignment: Alignment = "auto",
    asked_limits: AskedLimits = ANY_LIMITS,
) -> PreparedPair:
    """Read both models' sizes, the tokenizers and the Fusers, and check that they fit.

    Raises ``PairError`` with every problem found.
    """
    problems: list[Problem] = []
    models = [source.receiver, *source.sharers]
    dims = [_collect(problems, _read_dims, model) for model in models]
    read = [
        _collect(problems, read_tokenizer, model.directory, model.gguf_file) for model in models
    ]
    tokenizers = [None if found is None else found.tokenizer for found in read]
    fusers = [_collect(problems, read_fuser, path) for path in source.fusers]
    known_dims = [found for found in dims if found is not None]
    known_fusers = [found for found in fusers if found is not None]
    if len(known_dims) < len(dims) or len(known_fusers) < len(fusers):
        raise PairError(f"the pair {source.name} cannot be built:", problems)

    receiver, *sharers = known_dims
    beyond = [
        _beyond_vocabulary(tokenizer, found, model)
        for tokenizer, found, model in zip(tokenizers, known_dims, models, strict=True)
        if tokenizer is not None
    ]
    problems += [found for found in beyond if isinstance(found, Problem)]
    facts = _tokenizer_facts(tokenizers, receiver.vocab_size)
    limits = asked_limits.of(known_dims)
    problems += check_pair(
        receiver, sharers, known_fusers, alignment=alignment, tokenizers=facts, limits=limits
    )
    if problems:
        raise PairError(f"the pair {source.name} cannot be built:", problems)

    alignments = [
        _resolve_alignment(alignment, same is not False and not facts.reach_beyond(sharer), fuser)
        for same, sharer, fuser in zip(facts.same_ids, sharers, known_fusers, strict=True)
    ]
    pair = pair_from_sources(
        source.name,
        receiver,
        list(zip(sharers, known_fusers, strict=True)),
        alignments,
        source.multi_sharer,
    )
    roles = [names.RECEIVER, *(names.sharer(number) for number in range(1, len(models)))]
    by_role = {
        role: tokenizer
        for role, tokenizer in zip(roles, tokenizers, strict=True)
        if tokenizer is not None
    }
    return PreparedPair(
        source=source,
        pair=pair,
        limits=limits,
        eos_ids=eos_ids(source.receiver, read_config(source.receiver), tokenizers[0]),
        tokenizers=by_role if names.RECEIVER in by_role else {},
        default_templates={
            names.sharer(number): default_chat_template(sharer.architecture)
            for number, sharer in enumerate(sharers, start=1)
        },
        fusers=tuple(known_fusers),
        notes=(
            *(found.note for found in read if found is not None and found.note),
            *(found for found in beyond if isinstance(found, str)),
            *_missing_tokenizers(facts),
        ),
    )


def _collect(problems: list[Problem], read: Callable[..., T], *args: object) -> T | None:
    """``read(*args)``, or None and its problems added to the others."""
    try:
        return read(*args)
    except InputError as error:
        problems += error.problems or [Problem(str(error))]
        return None


def _read_dims(model: ModelSource) -> ModelDims:
    return model_dims(read_config(model), model)


def _missing_tokenizers(facts: TokenizerFacts) -> Iterator[str]:
    """What a bundle will not do for want of tokenizers."""
    if not facts.receiver:
        yield "the Receiver has no tokenizer: the bundle will take and give token ids only"
        return
    for number, there in enumerate(facts.sharers, start=1):
        if not there:
            yield (
                f"Sharer {number} has no tokenizer: plain prompts and token ids are answered, chats are "
                "not, and ids are taken to mean the same to both; put tokenizer.json beside its weights"
            )


def _beyond_vocabulary(
    tokenizer: PreTrainedTokenizerBase, dims: ModelDims, model: ModelSource
) -> Problem | str | None:
    """Tokens without a row among the embeddings: added ones a note, those of every text a problem."""
    added = tokenizer.added_tokens_decoder
    beyond = [id for id in tokenizer.get_vocab().values() if id >= dims.vocab_size]
    if not beyond:
        return None
    own = f"{model} has {dims.vocab_size} embeddings (vocab_size)"
    if all(id in added for id in beyond):
        return (
            f"{own}; {len(beyond)} added token(s) of its tokenizer have ids beyond them: not usable"
        )
    return Problem(
        f"{own}, and its tokenizer has ids up to {max(beyond)}",
        "give the tokenizer that belongs to this model",
    )


def _tokenizer_facts(
    tokenizers: Sequence[PreTrainedTokenizerBase | None], receiver_vocab_size: int
) -> TokenizerFacts:
    receiver, *sharers = tokenizers
    known = () if receiver is None else receiver.get_vocab().values()
    own_ids = [id for id in known if id < receiver_vocab_size]
    return TokenizerFacts(
        receiver is not None,
        tuple(sharer is not None for sharer in sharers),
        tuple(
            None if receiver is None or sharer is None else same_ids(receiver, sharer)
            for sharer in sharers
        ),
        max(own_ids) + 1 if own_ids else None,
    )


def _resolve_alignment(
    asked: Alignment, can_share_ids: bool, fuser: FuserCheckpoint
) -> Literal["none", "first", "longest"]:
    """``auto``: none where every id of the Receiver means the same to the Sharer (or nobody can tell),
    else what the Fuser was trained with, else the paper's choice."""
    if asked != "auto":
        return asked
    if can_share_ids:
        return "none"
    trained_with = fuser.alignment
    return "longest" if trained_with in (None, "none") else trained_with
