"""A message of a chat, as callers give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = Mapping[str, Any]
"""``role`` and ``content``, both text, and what else a chat template reads."""
