"""What callers give, checked where it is given: a count, a number, a choice, a switch, an object of ours.

Each check raises ``UsageError`` that names the argument, its value and what is allowed. ``or_none``: None
is allowed, too.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from reprlib import repr as short_repr
from typing import Any

from c2c_runtime.errors import UsageError


def check_count(
    name: str, value: object, least: int = 0, *, meaning: str = "", or_none: bool = False
) -> None:
    """An integer, at least ``least``; numpy's count, booleans do not. ``meaning``: of special values."""
    if or_none and value is None:
        return
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or int(value) < least:  # type: ignore[call-overload]
        allowed = f"an integer >= {least}" + (f" ({meaning})" if meaning else "")
        raise _refused(name, value, allowed, or_none)


def check_number(
    name: str,
    value: object,
    least: float = 0.0,
    most: float = math.inf,
    *,
    is_open: bool = False,
    meaning: str = "",
) -> None:
    """A finite number from ``least`` to ``most``; ``is_open``: above ``least``."""
    number = _finite(value)
    if number is None or not least <= number <= most or (is_open and number == least):
        allowed = f"a number {'>' if is_open else '>='} {least:g}"
        if most < math.inf:
            allowed = f"a number from {least:g} to {most:g}"
        raise _refused(name, value, allowed + (f" ({meaning})" if meaning else ""), False)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of ``choices``, written as they are."""
    if not isinstance(value, str) or value not in choices:
        raise _refused(name, value, "one of " + ", ".join(choices), False)


def check_switch(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise _refused(name, value, "True or False", False)


def check_text(name: str, value: object, *, or_none: bool = False) -> None:
    """Text."""
    check_kind(name, value, str, "text", or_none=or_none)


def check_kind(
    name: str,
    value: object,
    kinds: type[Any] | tuple[type[Any], ...],
    allowed: str,
    *,
    or_none: bool = False,
) -> None:
    """An object of one of ``kinds``; ``allowed`` says so in words."""
    if not isinstance(value, kinds) and not (or_none and value is None):
        raise _refused(name, value, allowed, or_none)


def check_names(what: str, given: object, known: tuple[str, ...]) -> None:
    """Every name of ``given`` is one of ``known``."""
    unknown = [name for name in given if name not in known]  # type: ignore[attr-defined]
    if unknown:
        raise UsageError(
            f"{what} has no {', '.join(map(str, unknown))}", "give some of " + ", ".join(known)
        )


def _finite(value: object) -> float | None:
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer that no float can hold
        return None
    return number if math.isfinite(number) else None


def shown(value: object) -> str:
    """``value`` in a few words, for messages."""
    try:
        return short_repr(value)
    except ValueError:  # Python writes out no integer of more than 4300 digits
        return f"a very large {type(value).__name__}"


def _refused(name: str, value: object, allowed: str, or_none: bool) -> UsageError:
    return UsageError(
        f"{name} is {shown(value)}", f"give {allowed}{', or None' if or_none else ''}"
    )
