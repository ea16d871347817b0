"""The chat template of a checkpoint's tokenizer: the one that is meant, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from c2c_runtime.errors import BundleError, PairError, Problem
from c2c_runtime.text.chat_template import ChatTemplate

_GGUF_KEY = "tokenizer.chat_template"


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template used for chats; of several named ones, ``default``. None where there is none.

    Raises PairError where several have names and none is called default, as transformers does.
    """
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        if template and "default" not in template:
            raise _unnamed(str(tokenizer.name_or_path or "this checkpoint"), template)
        template = template.get("default")
    return template or None


def check_template(template: str, where: Path) -> None:
    """Refuse a template that the runtime could not compile. Raises PairError that names its line."""
    try:
        ChatTemplate(template, {}, origin=f"the chat template of {where}")
    except BundleError as error:
        causes = [problem.cause for problem in error.problems]
        remedy = "mend it, or remove it for a model without a template of its own"
        raise PairError("", [Problem(cause, remedy) for cause in causes]) from error


def check_gguf_templates(path: Path, fields: Mapping[str, object]) -> None:
    """Refuse a GGUF file with named templates alone, which its reader would drop."""
    named = [key.removeprefix(f"{_GGUF_KEY}.") for key in fields if key.startswith(f"{_GGUF_KEY}.")]
    if named and "default" not in named and _GGUF_KEY not in fields:
        raise _unnamed(str(path), dict.fromkeys(named))


def _unnamed(where: str, named: Mapping[str, object]) -> PairError:
    return PairError.of(
        f"{where} has chat templates named {', '.join(sorted(named))}, and none named default",
        "keep the one that is meant as the checkpoint's only template, in chat_template.jinja, or "
        "name it default",
    )
