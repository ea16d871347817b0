"""Chat templates: messages -> prompt text, rendered as transformers renders them.

A template comes with a checkpoint, so it is untrusted code: it runs in jinja2's immutable sandbox
and sees plain data only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from c2c_runtime.errors import BundleError, UsageError
from c2c_runtime.text.messages import Message, check_messages
from c2c_runtime.text.template_budget import (
    CountingEnvironment,
    OverBudget,
    size_of,
    within_budget,
)

_GEMMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role'])"
    " + '\\n' + message['content'] + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_NEUTRAL_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")

# What a template's own expressions raise when they meet messages they were not written for.
_EXPRESSION_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

# What a template that nests too deeply, or holds a number too long, raises while it is read.
_PARSING_ERRORS = (RecursionError, SyntaxError, ValueError, OverflowError, MemoryError)


def default_chat_template(architecture: str) -> str:
    """The template of a model that has none of its own, by transformers' ``model_type``.

    Gemma: its published turn format, the assistant called ``model``. Any other architecture: one
    line ``role: content`` a message after the BOS token (where there is one), and ``assistant:``
    as generation prompt.
    """
    return _GEMMA_TEMPLATE if architecture.startswith("gemma") else _NEUTRAL_TEMPLATE


class ChatTemplate:
    """A compiled chat template.

    ``special_tokens`` are the variables ``bos_token``, ``eos_token``, ... of the tokenizer;
    ``origin`` names the file and ``whose`` the model ("Sharer 1's") in error messages.

    Raises ``BundleError`` if the template does not parse.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        origin: str = "chat template",
        whose: str = "the",
    ) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._origin = origin
        self._whose = whose
        try:
            with within_budget(len(source)):
                self._template = _environment().from_string(source)
        except (jinja2.TemplateError, *_PARSING_ERRORS) as error:
            line = (
                f", line {error.lineno}," if isinstance(error, jinja2.TemplateSyntaxError) else ""
            )
            raise BundleError.of(
                f"{origin}{line} is not a Jinja template that this runtime understands: {error}",
                "mend the chat template of the checkpoint and build the bundle again",
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt text of ``messages``, each a mapping with ``role`` and ``content``.

        ``variables`` (``enable_thinking``, ``tools``, ...) are visible to the template and win
        over special tokens of the same name.

        Raises ``UsageError`` if the template refuses the messages or cannot render them, and
        ``BundleError`` if it tries to leave the sandbox.
        """
        chat = _checked(messages)
        visible = {"tools": None, "documents": None, **self._special_tokens, **_plain(variables)}
        visible |= {"messages": chat, "add_generation_prompt": add_generation_prompt}
        try:
            with within_budget(size_of(visible)):
                return self._template.render(visible)
        except _RefusedByTemplate as error:
            raise UsageError(
                f"{self._whose} chat template refuses these messages: {error.message}",
                "change the order, the roles or the content of the messages",
            ) from error
        except (OverBudget, MemoryError) as error:
            raise UsageError(
                f"{self._whose} chat template was stopped: {error or 'it takes too much memory'}",
                "give fewer or shorter messages; if it stops at short ones, do not use this bundle unless "
                "you trust where its template comes from",
            ) from error
        except SecurityError as error:
            raise BundleError.of(
                f"{self._origin} does what a chat template may not do: {error}",
                "do not use this bundle unless you trust where its template comes from",
            ) from error
        except (jinja2.TemplateError, *_EXPRESSION_ERRORS) as error:
            raise UsageError(
                f"{self._whose} chat template cannot render these messages: {error}",
                "give every message the fields that the template reads, 'role' and 'content' "
                "at least, as text",
            ) from error


class _RefusedByTemplate(jinja2.TemplateError):
    """The template called ``raise_exception``."""


class _GenerationTag(Extension):
    """``{% generation %}...{% endgeneration %}`` marks what a trainer learns from: only its body
    is rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A macro call, as in transformers: what the body sets does not leave it.
        call = self.call_method("_render_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render_body(self, caller: Any) -> Any:
        return caller()


class _TemplateDict:
    """``dict`` as a template may use it: no attributes beyond these two."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _TemplateNamespace(Namespace):
    """``namespace(...)`` that holds no name with a leading underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # ``self`` stays in ``args`` so that a template can store a variable of that name.
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # what it holds can hold it, and so on


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not store {name!r}")


def _environment() -> CountingEnvironment:
    environment = CountingEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.set_filter("tojson", _to_json)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _TemplateDict()
    environment.globals["namespace"] = _TemplateNamespace
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """``tojson`` without jinja2's HTML escapes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedByTemplate(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Plain copies of the messages, without fields that are None, reasoning under every name that
    templates read it by."""
    check_messages(messages)
    try:
        return _plain_chat(messages)
    except RecursionError as error:
        raise UsageError(
            "the messages are nested too deeply", "give messages whose fields are plain text"
        ) from error


def _plain_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    chat: list[dict[str, Any]] = []
    for message in messages:
        plain = {key: value for key, value in _plain(message).items() if value is not None}
        reasoning = next((plain[name] for name in _REASONING_FIELDS if name in plain), None)
        if reasoning is not None:
            plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
        chat.append(plain)
    return chat


def _plain(value: Any) -> Any:
    """``value`` rebuilt from JSON types, so that a template meets no method of ours; anything else
    becomes a placeholder that names its type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # an enum's text, not its name
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return f"<{type(value).__name__}>"
