"""What a bundle says about itself: frozen dataclasses, validated by pydantic on load.

A field stands here once; the compiler fills it, the runtime reads it. ``manifest.json`` is this
module's ``Manifest`` as JSON. Counts are ``num_*``, capacities ``max_*``, sizes ``*_bytes``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

SCHEMA_VERSION = 2

_STRICT = ConfigDict(extra="forbid")

# How a graph says attention over a cache, see docs/architecture.md.
Dialect = Literal["ort", "tensorrt", "tensorrt-scatter"]
EngineBackend = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, config=_STRICT)
class ModelDims:
    """The sizes of one language model that its caches and graphs are built from."""

    architecture: str  # transformers' model_type: llama, qwen3, gemma3_text, ...
    num_layers: int
    num_kv_heads: int
    head_dim: int  # k_proj.out_features / num_kv_heads, never hidden_size / num_heads
    vocab_size: int
    max_positions: int | None  # positions the model was trained for; None: not stated
    sliding_window: int | None  # tokens a windowed layer sees; None: no layer is windowed
    dtype: str  # of the checkpoint: float32, bfloat16, float16


@dataclass(frozen=True, config=_STRICT)
class LayerLink:
    """One Receiver layer, the Sharer layer it listens to, and whether each gate is open."""

    receiver_layer: int
    sharer_layer: int
    key_gate: bool
    value_gate: bool


@dataclass(frozen=True, config=_STRICT)
class SharerLink:
    """A Sharer and how it is wired into the Receiver.

    ``num_cached_layers``: layers the Sharer graph keeps, highest mapped layer + 1 (0: every gate
    is closed and the Sharer is never run). ``fuses_whole_sections``: a token's fusion depends on the
    section's other tokens or on its place among them, so a section is never fused in chunks.
    ``max_fused_len``: tokens of the longest section that the Fuser has weights for; None: any.
    """

    dims: ModelDims
    links: tuple[LayerLink, ...]
    num_cached_layers: int
    alignment: Literal["none", "first", "longest"]
    fuses_whole_sections: bool = False
    max_fused_len: int | None = None

    @property
    def gates(self) -> list[bool]:
        """Whether each gate is open, key then value a linked layer."""
        return [gate for link in self.links for gate in (link.key_gate, link.value_gate)]


@dataclass(frozen=True, config=_STRICT)
class Pair:
    """A Receiver and the Sharers that lend it their understanding, in mask order."""

    name: str
    receiver: ModelDims
    sharers: tuple[SharerLink, ...]
    multi_sharer: Literal["sequential", "parallel"] = "sequential"


@dataclass(frozen=True, config=_STRICT)
class Limits:
    """Capacities, all in tokens or rows. ``max_prompt_len`` is the most tokens of one graph call;
    a longer prompt is prefilled in chunks. ``max_positions``: positions that the graphs' rotary tables
    have rows for, which dropped template padding uses up, too; None: the graphs compute any."""

    max_seq_len: int
    max_prompt_len: int
    max_batch_size: int = 1
    max_positions: int | None = None


@dataclass(frozen=True, config=_STRICT)
class TensorSpec:
    """A graph's input or output. A dimension is a number or a symbol such as ``tokens``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, config=_STRICT)
class GraphSpec:
    """One ONNX graph. ``role``: receiver, fuser, sharer1, sharer2, ..."""

    role: str
    dialect: Dialect
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    num_parameters: int

    def dtype_of(self, name: str) -> str:
        """The element type of an input, such as float32. KeyError if there is no such input."""
        return {tensor.name: tensor.dtype for tensor in self.inputs}[name]


@dataclass(frozen=True, config=_STRICT)
class ProfileSpec:
    """The shapes that one optimisation profile of an engine allows: (min, opt, max) an input.

    ``name``: decode (one token), prefill, fuse. Inputs whose shape is fixed have no entry.
    """

    name: str
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, config=_STRICT)
class EngineSpec:
    """What a backend built from a graph for one target. Absent for plain ONNX Runtime.

    ``backend_version`` as the library says it (1.7.1.116), ``target`` the compute capability (sm89),
    ``platform`` operating system and processor (linux-x86_64): an engine runs nowhere else. Profiles
    are numbered in this order. Size and sha256 stand in the manifest's ``files``.
    """

    role: str
    backend: EngineBackend
    backend_version: str
    target: str
    platform: str
    precision: str
    path: str
    profiles: tuple[ProfileSpec, ...]


@dataclass(frozen=True, config=_STRICT)
class SpecialToken:
    """A token with a role in the model: its text and its id."""

    text: str
    id: int


@dataclass(frozen=True, config=_STRICT)
class TokenizerSpec:
    """A tokenizer directory of the bundle: ``tokenizer.json`` and, where ``has_chat_template``,
    ``chat_template.jinja``."""

    path: str
    bos: SpecialToken | None
    eos: SpecialToken | None
    pad: SpecialToken | None
    unk: SpecialToken | None
    has_chat_template: bool


@dataclass(frozen=True, config=_STRICT)
class GoldenSpec:
    """A stored case that ``verify`` repeats: ids, sections and what eager PyTorch computed.

    ``sections`` are (length, sharer mask); mask -1 is not fused, bit i is Sharer i + 1.
    ``tolerance`` is absolute or relative to the largest expected value. Where ``min_cosine`` is set
    (graphs of less than fp32), caches and logits are compared by cosine instead, and of the greedy
    ids, each after the expected ones before it, a share of ``min_agreement`` has to be equal.
    """

    name: str
    path: str
    receiver_ids: tuple[int, ...]
    sharer_ids: tuple[tuple[int, ...], ...]  # one tuple a Sharer
    sections: tuple[tuple[int, int], ...]
    greedy_ids: tuple[int, ...]
    tolerance: float
    min_cosine: float | None = None
    min_agreement: float = 1.0


@dataclass(frozen=True, config=_STRICT)
class Loss:
    """What few bits lose: the Receiver alone, ``num_tokens`` tokens, against eager PyTorch in fp32.

    ``perplexity`` of every token but the first, and ``perplexity_fp32``, that of the unquantised model.
    ``greedy_agreement``: share of tokens after which both hold the same one for the likeliest.
    ``kl_divergence``: mean of KL(fp32 || few bits) in nats over 65 outcomes, fp32's 64 likeliest tokens
    and all others as one; that of the whole vocabulary is at least as large.
    ``mean_cosine``, ``least_cosine``: of the two rows of logits after a token, over 1,024 ids spread
    evenly over the vocabulary (all ids where it has no more).
    """

    num_tokens: int
    perplexity: float
    perplexity_fp32: float
    greedy_agreement: float
    kl_divergence: float
    mean_cosine: float
    least_cosine: float

    @property
    def perplexity_ratio(self) -> float:
        """Of few bits to fp32; 1: nothing is lost."""
        return self.perplexity / self.perplexity_fp32


@dataclass(frozen=True, config=_STRICT)
class LossBounds:
    """What a sound bundle keeps to. The divergence is there because scales that are wrong by one factor
    for all tokens change neither cosine nor best token."""

    min_mean_cosine: float
    min_greedy_agreement: float
    max_kl_divergence: float


@dataclass(frozen=True, config=_STRICT)
class LossSpec:
    """The loss as measured by the build, and ``path``, the reference that ``verify`` measures it against
    again. ``is_prose``: the tokens are English prose; else random ids, because there is no tokenizer."""

    path: str
    is_prose: bool
    bounds: LossBounds
    measured: Loss


@dataclass(frozen=True, config=_STRICT)
class BaselineSpec:
    """What Sharer ``sharer`` (from 1) needs to answer by itself: ``build --with-baselines`` adds it.

    ``graph``: the whole model with its LM head, made like a Receiver's; its role is
    ``names.baseline(sharer)``. It stands here and not among the pair's graphs, because C2C neither
    loads it nor has engines of it. ``eos_ids`` are the Sharer's own. ``golden``: cases in which it is
    the Receiver of a pair without Sharers.
    """

    sharer: int
    graph: GraphSpec
    eos_ids: tuple[int, ...]
    golden: tuple[GoldenSpec, ...]


@dataclass(frozen=True, config=_STRICT)
class FileEntry:
    """A file's size and sha256; every file of a bundle but the manifest has one."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """The whole of ``manifest.json``.

    ``created_at`` is the only field that differs between two builds of the same inputs; ``digest``
    is the sha256 of everything else in here, so that a changed byte is noticed.
    ``tokenizers`` and ``alignments`` are keyed by role (receiver, sharer1, ...); empty where the
    bundle takes and gives token ids only. ``eos_ids`` are all ids that end an answer, from config
    and generation_config. ``baselines``: Sharers that can answer by themselves, none in a bundle that
    was not built for it. ``loss``: of the Receiver's weights in few bits; None where they are not, or
    the bundle was not verified.
    """

    schema_version: int
    created_at: str
    pair: Pair
    limits: Limits
    precision: str
    graphs: tuple[GraphSpec, ...]
    engines: tuple[EngineSpec, ...]
    tokenizers: dict[str, TokenizerSpec]
    alignments: dict[str, str]
    eos_ids: tuple[int, ...]
    golden: tuple[GoldenSpec, ...]
    tools: dict[str, str]
    files: dict[str, FileEntry]
    digest: str = ""
    loss: LossSpec | None = None
    baselines: tuple[BaselineSpec, ...] = ()


MANIFEST = TypeAdapter(Manifest)
