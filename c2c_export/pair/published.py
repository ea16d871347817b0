"""The Fusers published in the collection nics-efc/C2C_Fuser, and the models each one joins.

Source: https://huggingface.co/nics-efc/C2C_Fuser. Shapes are KV heads x head size.
"""

from __future__ import annotations

from dataclasses import dataclass

from c2c_export.fusers.fuser_shape import FuserShape

FUSER_REPOSITORY = "nics-efc/C2C_Fuser"


@dataclass(frozen=True)
class PublishedPair:
    """One published Fuser: hub ids of the models, its folder in the collection, its sizes."""

    name: str
    receiver: str
    sharer: str
    fuser_folder: str
    shape: FuserShape


def _published(
    folder: str, receiver: str, sharer: str, sharer_heads: int, sharer_dim: int
) -> PublishedPair:
    # Every published Receiver is a Qwen3 with 8 KV heads of 128.
    shape = FuserShape(sharer_heads, sharer_dim, receiver_heads=8, receiver_dim=128)
    name = folder.removesuffix("_Fuser")
    return PublishedPair(name, receiver, sharer, folder, shape)


PUBLISHED: dict[str, PublishedPair] = {
    pair.name: pair
    for pair in (
        _published(
            "qwen3_0.6b+qwen2.5_0.5b_Fuser", "Qwen/Qwen3-0.6B", "Qwen/Qwen2.5-0.5B-Instruct", 2, 64
        ),
        _published(
            "qwen3_0.6b+llam3.2_1b_Fuser",
            "Qwen/Qwen3-0.6B",
            "meta-llama/Llama-3.2-1B-Instruct",
            8,
            64,
        ),
        _published(
            "qwen3_0.6b+qwen2.5_1.5b_math_Fuser",
            "Qwen/Qwen3-0.6B",
            "Qwen/Qwen2.5-Math-1.5B",
            2,
            128,
        ),
        _published("qwen3_0.6b+qwen3_4b_Fuser", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B", 8, 128),
        _published(
            "qwen3_0.6b+qwen3_4b_base_Fuser", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B-Base", 8, 128
        ),
        _published(
            "qwen3_1.7b+qwen2.5_1.5b_Fuser", "Qwen/Qwen3-1.7B", "Qwen/Qwen2.5-1.5B-Instruct", 2, 128
        ),
        _published(
            "qwen3_8b+qwen2.5_7b_Fuser", "Qwen/Qwen3-8B", "Qwen/Qwen2.5-7B-Instruct", 4, 128
        ),
    )
}


def published_with_shape(shape: FuserShape) -> list[PublishedPair]:
    """The published pairs whose Fuser has these sizes."""
    return [pair for pair in PUBLISHED.values() if pair.shape == shape]
