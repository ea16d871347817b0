"""Every error that c2c-export raises on purpose, drawn once.

    C2CError                    exit 1 if nothing more specific applies (a bug of ours)
    ├── UsageError              exit 2: what was asked for cannot be; ask differently
    │   └── CapacityError       the tokens do not fit the caches of this bundle
    ├── InputError              exit 3: files that were given are wrong; lists every Problem
    │   ├── PairError           a checkpoint, a fuser, or how they fit together
    │   └── BundleError         a bundle that is damaged, incomplete or too new
    ├── VerificationError       exit 4: a graph does not compute what eager PyTorch computed
    └── UnavailableError        exit 5: something needed is not here (package, GPU, memory, disk)

An error's text says the cause and the remedy. The command line prints it without a traceback
and exits with ``exit_code``; a service catches ``C2CError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input, and what to do about it."""

    cause: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.cause}\n    -> {self.remedy}" if self.remedy else self.cause


class C2CError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is the command line's exit status."""

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause = cause
        self.remedy = remedy
        super().__init__(str(Problem(cause, remedy)))


class UsageError(C2CError):
    """What was asked for cannot be done with this bundle or these options."""

    exit_code = 2


class CapacityError(UsageError):
    """The tokens do not fit into the KV caches. Nothing was written to them."""


class InputError(C2CError):
    """Files that were given are wrong. Holds every problem found, not only the first."""

    exit_code = 3

    def __init__(self, headline: str, problems: Sequence[Problem] = ()) -> None:
        self.headline = headline
        self.problems = tuple(problems)
        if len(self.problems) == 1 and not headline:
            text = str(self.problems[0])
        else:
            text = "\n".join([headline, *(f"  - {problem}" for problem in self.problems)])
        super().__init__(text)

    @classmethod
    def of(cls, cause: str, remedy: str = "") -> Self:
        """An error with one problem and no headline."""
        return cls("", [Problem(cause, remedy)])


class PairError(InputError):
    """A checkpoint is wrong, or Receiver, Sharer and Fuser do not fit together."""


class BundleError(InputError):
    """A bundle is damaged, incomplete, or written in a newer format."""


class VerificationError(C2CError):
    """A graph's result is outside tolerance of what eager PyTorch computed."""

    exit_code = 4


class UnavailableError(C2CError):
    """Something needed is not here: a package, a backend, a GPU, memory, disk space."""

    exit_code = 5
