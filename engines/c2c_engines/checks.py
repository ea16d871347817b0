"""Whether a network and the engine built from it are what was asked for. If not, the build fails.

A backend that drops a fusion or a precision says so nowhere: the engine is only slower or bigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from c2c_engines.summary import NetworkSummary, ProductWeight
from c2c_engines.targets import has_caches
from c2c_runtime.bundle import names
from c2c_runtime.bundle.manifest import GraphSpec, ProfileSpec
from c2c_runtime.errors import BundleError, Problem, VerificationError

_REBUILD = (
    "build the bundle again with `c2c-export build` of this version, and report it if it stays"
)
_CACHE_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
# The type that a model's matrices are stored in.
_STORED_AS = {
    "fp32": "FLOAT",
    "fp16": "HALF",
    "bf16": "BF16",
    "int8": "INT8",
    "int4": "INT4",
    "fp8": "FP8",
}
_INT4_BLOCK = 32
_QUANTISED = ("INT8", "INT4", "FP8")
_MAX_ODD_SHARE = 0.05  # of a model's matrix elements that may be stored in another type
_SMALL_SCRATCH_BYTES = 64 * 2**20  # what the decode step of a model takes anyway
_KERNELS_BYTES = 16 * 2**20  # code and tables of an engine, beside its weights
_MAX_OVER_WEIGHTS = 1.15


@dataclass(frozen=True)
class Expected:
    """What a network has to hold. ``stored_as``: the type of the products' weights, None: any but
    FLOAT. ``vocab_size``: a matrix with this dimension is the LM head and may be of another type."""

    caches: dict[str, str]  # past -> present
    cache_dtype: str
    min_attentions: int
    stored_as: str | None
    vocab_size: int | None = None
    needs_kv_updates: bool = True


def expected_of(graph: GraphSpec, precision: str) -> Expected:
    """What the network of a graph of the dialects ``tensorrt`` has to hold in ``precision``.

    A Receiver has one attention a layer; a Sharer ends at the keys and values of its last layer, so
    one fewer at the least. The weights of a Fuser are not quantised in every precision.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    caches = {
        past: present
        for present in outputs
        if (past := present.replace("present.", "past.", 1)) in inputs and past != present
    }
    is_model, is_fused = has_caches(graph), graph.dialect == "tensorrt"
    layers = {name.split(".")[1] for name in caches}
    logits = outputs.get(names.LOGITS)
    if not is_model or not is_fused:
        min_attentions = 0
    else:
        min_attentions = len(layers) if logits else max(len(layers) - 1, 0)
    vocab_size = logits.shape[-1] if logits else None
    return Expected(
        caches=caches,
        cache_dtype=_CACHE_TYPES[next((inputs[name].dtype for name in caches), "float16")],
        min_attentions=min_attentions,
        stored_as=_STORED_AS[precision] if is_model or precision == "fp32" else None,
        vocab_size=vocab_size if isinstance(vocab_size, int) else None,
        needs_kv_updates=is_fused,
    )


def check_network(summary: NetworkSummary, expected: Expected, where: str) -> None:
    """Raise ``BundleError`` with everything in a parsed network that is not as expected.

    ``where``: the graph's role, for the message.
    """
    problems = [
        *_cache_problems(summary, expected),
        *_attention_problems(summary, expected),
        *_weight_problems(summary, expected),
    ]
    if problems:
        raise BundleError(f"the network of {where} is not what was asked for:", problems)


def check_size(weights_bytes: int, summary: NetworkSummary, num_profiles: int, where: str) -> None:
    """Raise ``VerificationError`` if an engine holds more weights than its network explains.

    ``weights_bytes`` as the engine has them. A profile may have a layout of its own of every weight that
    is not quantised (TensorRT-RTX 1.7 does that where one profile is for one token), and a tied
    embedding is there once more as the LM head. Quantised weights are there once: if they are not,
    they were unpacked while the engine was built.
    """
    stored = summary.constant_bytes
    quantised = sum(stored.get(kind, 0) for kind in _QUANTISED)
    plain = sum(stored.values()) - quantised
    limit = _MAX_OVER_WEIGHTS * (quantised + plain * (num_profiles + 1)) + _KERNELS_BYTES
    if weights_bytes > limit:
        raise VerificationError(
            f"the engine of {where} holds {weights_bytes / 2**20:.1f} MiB of weights, its graph "
            f"{(plain + quantised) / 2**20:.1f} MiB: the asked-for precision is not in it",
            "use another --precision, or another version of TensorRT",
        )


def unpacking_warning(
    summary: NetworkSummary, profiles: Sequence[ProfileSpec], activation_bytes: Sequence[int]
) -> str | None:
    """What to say of an engine whose decode step has scratch memory for most of its weights unpacked.

    Then int8 or fp8 saves memory in the file only, and a step is slower than in fp16.
    """
    stored = summary.weight_elements()
    unpacked_bytes = 2 * sum(stored.get(kind, 0) for kind in _QUANTISED)
    for profile, scratch in zip(profiles, activation_bytes, strict=False):
        is_decode = profile.name == "decode"
        if is_decode and unpacked_bytes and scratch > _SMALL_SCRATCH_BYTES + unpacked_bytes / 3:
            return (
                f"a decode step takes {scratch / 2**20:.0f} MiB of scratch memory: weights seem to be "
                "unpacked at every step, which is slower than fp16"
            )
    return None


def _cache_problems(summary: NetworkSummary, expected: Expected) -> Iterator[Problem]:
    updates = {update.past: update.present for update in summary.kv_updates}
    wrong_type = [
        f"{past} ({summary.inputs.get(past, 'no input')})"
        for past in expected.caches
        if summary.inputs.get(past) != expected.cache_dtype
    ]
    if wrong_type:
        yield Problem(f"caches that are not {expected.cache_dtype}: {_some(wrong_type)}", _REBUILD)
    copied = [past for past, present in expected.caches.items() if updates.get(past) != present]
    if copied and expected.needs_kv_updates:
        yield Problem(
            f"{len(copied)} of {len(expected.caches)} caches have no KV update that writes them in "
            f"place, and would be copied: {_some(copied)}",
            _REBUILD,
        )
    if summary.cache_casts:
        yield Problem(
            f"a whole cache is cast to another type, at every call, by {_some(summary.cache_casts)}",
            _REBUILD,
        )


def _some(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    return ", ".join(items[:4]) + more


def _attention_problems(summary: NetworkSummary, expected: Expected) -> Iterator[Problem]:
    if summary.num_attentions < expected.min_attentions:
        yield Problem(
            f"{summary.num_attentions} fused attentions of {expected.min_attentions}: the others are "
            "products and a softmax over the whole capacity",
            _REBUILD,
        )
    for attention in summary.attentions:
        if attention.may_decompose:
            yield Problem(f"{attention.name} may be taken apart by the build", _REBUILD)


def _weight_problems(summary: NetworkSummary, expected: Expected) -> Iterator[Problem]:
    asked = expected.stored_as
    if asked == "INT4":
        # A matrix whose inputs fill no whole blocks is stored in eight bits.
        odd = [
            weight
            for weight in summary.product_weights
            if weight.dtype != asked and not _fills_no_block(weight)
        ]
    elif asked is None:
        odd = [weight for weight in summary.product_weights if weight.dtype == "FLOAT"]
    else:
        odd = [weight for weight in summary.product_weights if weight.dtype != asked]
    body = [weight for weight in odd if not _is_head(weight, expected.vocab_size)]
    wrong = sum(weight.num_elements for weight in body)
    total = sum(
        weight.num_elements
        for weight in summary.product_weights
        if not _is_head(weight, expected.vocab_size)
    )
    if wrong > _MAX_ODD_SHARE * total:
        worst = max(body, key=lambda weight: weight.num_elements)
        yield Problem(
            f"{len(body)} products have weights that are not {asked or 'of less than fp32'} "
            f"({wrong / total:.0%} of all), as {worst.layer}: {worst.dtype} {list(worst.shape)}",
            _REBUILD,
        )


def _fills_no_block(weight: ProductWeight) -> bool:
    return weight.dtype == "INT8" and weight.shape[-2] % _INT4_BLOCK != 0


def _is_head(weight: ProductWeight, vocab_size: int | None) -> bool:
    return vocab_size is not None and vocab_size in weight.shape
