"""A message of a chat, as callers give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from c2c_runtime.errors import UsageError

Message = Mapping[str, Any]
"""``role`` and ``content``, both text, and what else a chat template reads."""


def check_messages(messages: object) -> None:
    """Raise ``UsageError`` unless this is a list of messages, each a mapping with a role."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise UsageError(
            f"the messages of a chat are a list, and this is {type(messages).__name__}",
            'give [{"role": "user", "content": "..."}]',
        )
    if not messages:
        raise UsageError("the chat has no messages", "give at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise UsageError(
                f"message {index} is {type(message).__name__}, not a mapping",
                'write each message as {"role": ..., "content": ...}',
            )
        if not isinstance(message.get("role"), str):
            raise UsageError(
                f"message {index} has no role", "give it a role: system, user or assistant"
            )
