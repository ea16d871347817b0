"""What a build may be asked for: capacities, and how tokens are aligned. Known before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from c2c_runtime.bundle.manifest import Limits, ModelDims
from c2c_runtime.errors import UsageError

Alignment = Literal["auto", "none", "first", "longest"]

DEFAULT_MAX_SEQ_LEN = 2048
DEFAULT_MAX_PROMPT_LEN = 1024
MIN_SEQ_LEN = 16  # room for the golden cases: two fused sections, an unfused one and a last one


@dataclass(frozen=True)
class AskedLimits:
    """As in ``Limits``; None: what fits the models. Raises ``UsageError`` for what no bundle can have."""

    max_seq_len: int | None = None
    max_prompt_len: int | None = None
    max_batch_size: int = 1

    def __post_init__(self) -> None:
        asked = (
            ("max-seq-len", self.max_seq_len, MIN_SEQ_LEN, "tokens"),
            ("max-prompt-len", self.max_prompt_len, 1, "tokens"),
            ("max-batch-size", self.max_batch_size, 1, "rows"),
        )
        for name, value, least, what in asked:
            if value is not None and not (isinstance(value, int) and value >= least):
                raise UsageError(
                    f"--{name} {value}: a bundle has at least {least} {what}",
                    f"give {least} or more",
                )

    def of(self, models: Sequence[ModelDims]) -> Limits:
        """The limits of a bundle of ``models``: as asked, else as large as usual and as they allow."""
        max_seq_len = self.max_seq_len
        if max_seq_len is None:
            trained = [model.max_positions for model in models if model.max_positions is not None]
            max_seq_len = min([DEFAULT_MAX_SEQ_LEN, *trained])
        max_prompt_len = self.max_prompt_len
        if max_prompt_len is None:
            max_prompt_len = min(DEFAULT_MAX_PROMPT_LEN, max_seq_len)
        return Limits(max_seq_len, max_prompt_len, self.max_batch_size)


ANY_LIMITS = AskedLimits()
