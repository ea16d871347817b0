"""The sizes of a Fuser layer: known before PyTorch is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FuserShape:
    """KV heads and head sizes that a Fuser layer reads (Sharer, Receiver) and writes (Receiver)."""

    sharer_heads: int
    sharer_dim: int
    receiver_heads: int
    receiver_dim: int

    @property
    def num_inputs(self) -> int:
        """Features a token has after concatenation: all Sharer heads, then all Receiver heads."""
        return self.sharer_heads * self.sharer_dim + self.num_outputs

    @property
    def num_outputs(self) -> int:
        """Features a token's fused key (or value) has over all heads."""
        return self.receiver_heads * self.receiver_dim

    def __str__(self) -> str:
        return (
            f"Sharer {self.sharer_heads} x {self.sharer_dim}, "
            f"Receiver {self.receiver_heads} x {self.receiver_dim} (KV heads x head size)"
        )
