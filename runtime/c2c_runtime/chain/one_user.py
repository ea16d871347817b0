"""Who uses a conversation: one thread at a time, and an answer only as long as nothing else was run."""

from __future__ import annotations

from threading import get_ident

from c2c_runtime.errors import UsageError


class OneUser:
    """A context that one thread at a time may be in. Another one is refused, not kept waiting: what it
    asks for would go on from caches that it did not expect.

    A class, because every decode step enters it. A thread that Ctrl-C kept from leaving may enter again.
    """

    def __init__(self, what: str) -> None:
        """``what``: that is used, for the error's text."""
        self._what = what
        self._threads: dict[str, int] = {}
        self._turn: object = None

    def __enter__(self) -> None:
        """Raises ``UsageError`` while another thread is inside."""
        thread = get_ident()
        if self._threads.setdefault("inside", thread) != thread:  # one step, whatever threads do
            raise UsageError(
                f"{self._what} is in use by another thread",
                "wait until its call is over, or give every thread one of its own",
            )

    def __exit__(self, *_: object) -> None:
        """Let others in."""
        self._threads.clear()

    def require_turn(self, turn: object) -> None:
        """Raise ``UsageError`` unless ``turn`` is the one that runs; None always may."""
        if turn is not None and turn is not self._turn:
            raise UsageError(
                f"{self._what} was used for something else since this answer began",
                "finish an answer before the next one begins, or give each one of its own",
            )

    def begin_turn(self, turn: object) -> None:
        """From here on ``turn`` runs, and what ran before cannot go on."""
        self._turn = turn
