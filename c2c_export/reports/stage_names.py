"""What the parts of an answer's time are called, in reports of ``bench``, ``eval`` and ``demo``.

Both prefills are given as each took; where they ran side by side they add up to more than ``PREFILLS``.
"""

from __future__ import annotations

SHARER = "Sharer prefill"
RECEIVER = "Receiver prefill"
PREFILLS = "prefills"  # both
FUSE = "fuse"
MESSAGE = "message"  # all that the Sharers do in text-to-text
FIRST_STEP = "first step"  # the last section, which gives the first token
RUNTIME = "runtime"  # what no graph accounts for
DECODE = "decode"
