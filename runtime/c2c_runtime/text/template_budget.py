"""What rendering a chat template may cost: time, characters, and the size of a single value.

A template is somebody else's program, and few words of it can ask for hours or for gigabytes. Nothing
stops a thread from outside, so the sandbox counts: every turn of a loop, every call, filter, comparison
and output, and how much text each of them makes. What would make too much is refused before it does.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

MAX_SECONDS = 2.0  # of the thread's own CPU time, so that a busy machine refuses nothing
MAX_CHARS = 2**24  # in all, besides ``_CHARS_PER_CHAR`` for each that the messages have
_CHARS_PER_CHAR = 64
_SPENDS_PER_LOOK = 16  # at the clock

_SPEND, _PAID, _BOUNDED = "c2c_spend", "c2c_paid", "c2c_bounded"  # filters of our own
# Methods and filters whose result grows with an argument: as many times as large as the text at most.
_GROWING_METHODS = {"ljust", "rjust", "center", "zfill", "expandtabs", "replace", "join"}
_GROWING_FILTERS = {
    *("batch", "center", "format", "indent", "join", "replace", "round", "slice", "tojson"),
    *("truncate", "urlize", "wordwrap", "xmlattr"),
}
# What hands its values on as they are.
_PASSING_FILTERS = {
    *("attr", "count", "d", "default", "first", "items", "last", "length", "list", "map", "random"),
    *("reject", "rejectattr", "reverse", "select", "selectattr"),
}
_FORBIDDEN_METHODS = {"translate", "to_bytes"}
_COMPARING_TESTS = {
    *(
        "eq",
        "==",
        "equalto",
        "ne",
        "!=",
        "lt",
        "<",
        "lessthan",
        "le",
        "<=",
        "gt",
        ">",
        "greaterthan",
    ),
    *("ge", ">=", "in"),
}
_MAX_DIGITS = 4300  # of an integer: Python writes out no longer one, and products take ever longer
_WIDTH = re.compile(r"\d+")
_PERCENT = re.compile(r"%(?:\([^()]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d+))?")


class OverBudget(TemplateError):
    """The template asked for more than it may."""


class Budget:
    """What one rendering has left."""

    def __init__(self, num_chars: int) -> None:
        """``num_chars``: of the messages."""
        self.max_chars = MAX_CHARS + _CHARS_PER_CHAR * num_chars
        self._left = self.max_chars
        self._end_s = time.thread_time() + MAX_SECONDS
        self._num_spends = 0

    def spend(self, num_chars: int = 0) -> None:
        """One step, and as many characters. Raises ``OverBudget``."""
        self._left -= num_chars
        if self._left < 0:
            raise OverBudget(f"it makes more than {self.max_chars} characters")
        self._num_spends += 1
        if self._num_spends % _SPENDS_PER_LOOK == 0 and time.thread_time() > self._end_s:
            raise OverBudget(f"it takes more than {MAX_SECONDS:g} s")

    def require(self, num_chars: int) -> None:
        """Raise ``OverBudget`` unless a value of so many characters may be made."""
        if num_chars > self._left:
            raise OverBudget(f"it makes a value of {num_chars:.3g} characters")


_budget: ContextVar[Budget] = ContextVar("budget of a chat template")


@contextmanager
def within_budget(num_chars: int) -> Iterator[None]:
    """A block that may spend what messages of so many characters are worth."""
    token = _budget.set(Budget(num_chars))
    try:
        yield
    finally:
        _budget.reset(token)


def size_of(value: object, sizes: dict[int, int] | None = None) -> int:
    """Characters that ``value`` has as text, about; what is shared counts as often as it shows."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 3 + 1
    if not isinstance(value, list | tuple | Mapping):
        return 1
    sizes = {} if sizes is None else sizes
    if id(value) not in sizes:
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        sizes[id(value)] = 2 + sum(2 + size_of(part, sizes) for part in parts)
    return sizes[id(value)]


class CountingEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with a budget. Parse and render ``within_budget``."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_paid, **options)
        self.code_generator_class = _CountingGenerator
        del self.globals["lipsum"]  # makes any amount of text from one number
        for name, function in self.filters.items():
            self.filters[name] = _counted(name, function)
        for name in _COMPARING_TESTS:
            test: Any = self.tests[name]
            self.tests[name] = _counted(name, test)
        self.filters[_SPEND] = pass_context(lambda _, num_chars: _budget.get().spend(num_chars))
        self.filters[_PAID] = pass_context(lambda _, value: _paid(value))
        self.filters[_BOUNDED] = pass_context(lambda _, value: _bounded(value))

    def set_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Add a filter that is counted, too."""
        self.filters[name] = _counted(name, function)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Sums, products, powers and ``%``, unless the result is too large."""
        sizes = size_of(left), size_of(right)
        size = sum(sizes)
        if operator == "*":
            factors = [max(0, n) if isinstance(n, int) else None for n in (left, right)]
            texts = [size for size, factor in zip(sizes, factors, strict=True) if factor is None]
            if len(texts) == 1:  # text or a list, so many times
                size = texts[0] * next(factor for factor in factors if factor is not None)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            size = sizes[0] * max(1, right)
        elif operator == "%" and isinstance(left, str | bytes):
            size = _size_of_format(left, sizes[1])
        if isinstance(left, int) and isinstance(right, int) and size > _MAX_DIGITS:
            raise OverBudget(f"it makes an integer of {size:.3g} digits")
        _budget.get().require(size)
        result = super().call_binop(context, operator, left, right)
        _budget.get().spend(_length(result))
        return result

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item. A key that is nested too deeply would take for ever to hash."""
        return super().getitem(obj, _bounded(argument))

    def part(self, part: Any) -> Any:
        """``text[1:]``, which Jinja computes without asking the sandbox."""
        _budget.get().spend(_length(part))
        return part

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, counted field by field."""
        if super().wrap_str_format(value) is None:
            return None
        template, formatter = value.__self__, _CountingFormatter(self)
        if value.__name__ == "format_map":
            return lambda fields: formatter.vformat(template, (), fields)
        return lambda *args, **fields: formatter.vformat(template, args, fields)

    def call(self, context: Context, function: Any, *args: Any, **named: Any) -> Any:  # type: ignore[override]
        """A call, unless its result is too large."""
        budget = _budget.get()
        budget.spend()
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if isinstance(owner, list | tuple | Mapping):  # ``index`` and ``count`` compare
            budget.require(size_of(owner) + sum(map(size_of, args)))
        elif isinstance(owner, str | bytes | int):
            if name in _FORBIDDEN_METHODS:
                raise SecurityError(f"it calls {name}")
            if name == "join" and args and not isinstance(args[0], list | tuple | str):
                args = (_listed(args[0]), *args[1:])
            if name in _GROWING_METHODS:
                budget.require(_size_of_growth(name, owner, args, named))
        result = super().call(context, function, *args, **named)
        budget.spend(_length(result))
        return result


class _CountingFormatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        widths = max((int(width[:18]) for width in _WIDTH.findall(format_spec)), default=0)
        budget = _budget.get()
        budget.require(size_of(value) + widths)
        text = super().format_field(value, format_spec)
        budget.spend(len(text))
        return text


class _CountingGenerator(CodeGenerator):
    """Puts what counts into a template before it becomes Python: a step at the head of every loop and
    macro, with the characters that stand in it, and around what is compared or joined."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        loop: Any
        for loop in list(node.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            step = nodes.Filter(nodes.Const(_num_literal(loop.body)), _SPEND, [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(step))
            if isinstance(loop, nodes.For) and loop.test is not None:
                loop.test = _wrapped(loop.test)
        for compared in list(node.find_all(nodes.Compare)):
            compared.expr = _wrapped(compared.expr)
            for operand in compared.ops:
                operand.expr = _wrapped(operand.expr)
        for joined in list(node.find_all(nodes.Concat)):
            joined.nodes = [_wrapped(part, _PAID) for part in joined.nodes]
        for pair in list(node.find_all(nodes.Pair)):
            pair.key = _wrapped(pair.key)
        for made in node.find_all((nodes.Filter, nodes.Compare, nodes.ExprStmt)):
            made.set_environment(self.environment)
        super().visit_Template(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Any) -> None:
        is_part = isinstance(node.arg, nodes.Slice)
        self.write("environment.part(" if is_part else "")
        super().visit_Getitem(node, frame)
        self.write(")" if is_part else "")


def _wrapped(node: Any, name: str = _BOUNDED) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None)


def _num_literal(body: list[nodes.Node]) -> int:
    """Characters that stand in a body, but for those of loops and macros in it."""
    num_chars = 0
    for node in body:
        if isinstance(node, nodes.TemplateData):
            num_chars += len(node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            num_chars += len(node.value)
        elif not isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            num_chars += _num_literal(list(node.iter_child_nodes()))
    return num_chars


def _bounded(value: Any) -> Any:
    """``value``, if it is not too large."""
    budget = _budget.get()
    budget.spend()
    budget.require(size_of(value))
    return value


def _paid(value: Any) -> Any:
    """``value``, paid for."""
    _budget.get().spend(size_of(value))
    return value


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that pays for what it makes."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def counted(*args: Any, **named: Any) -> Any:
        budget = _budget.get()
        budget.spend()
        if name in ("join", "batch", "slice"):
            args = (*args[:first], _listed(args[first]), *args[first + 1 :])
        if name in _GROWING_FILTERS:
            budget.require(_size_of_growth(name, args[first], args[first + 1 :], named))
        elif name not in _PASSING_FILTERS:
            budget.require(sum(map(size_of, args[first:])))
        result = function(*args, **named)
        budget.spend(_length(result))
        return result

    return counted


def _size_of_growth(name: str, value: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> int:
    """At most so many characters come out where ``value`` grows with an argument."""
    if name == "join" and isinstance(value, str) and args:  # the method, of what stands between
        value, args = args[0], (value,)
    if name == "replace":  # only what is put in makes it longer
        args = args[1:2]
    given = (*args, *named.values())
    factors = [abs(arg) if isinstance(arg, int) else size_of(arg) for arg in given]
    if name == "format":
        return _size_of_format(str(value), sum(map(size_of, args)) + size_of(dict(named)))
    if name in ("join", "replace", "expandtabs", "indent", "tojson", "wordwrap"):
        return (size_of(value) + 1) * (1 + max(factors, default=0))
    return size_of(value) + sum(factors)


def _size_of_format(template: str | bytes, size: int) -> int:
    """Of what ``template % values`` makes, ``size`` that of the values."""
    text = template if isinstance(template, str) else template.decode("latin-1")
    found = _PERCENT.findall(text)
    widths = [width for pair in found for width in pair if width]
    if "*" in widths:
        raise SecurityError("it formats text with a width of '*'")
    return len(text) + sum(int(width[:18]) for width in widths) + len(found) * size


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | Mapping) else 1


def _listed(values: Any) -> Any:
    """An iterator's values as a list, each paid for; anything else as it is."""
    if isinstance(values, str | list | tuple | Mapping) or not hasattr(values, "__iter__"):
        return values
    return [_paid(value) for value in values]
