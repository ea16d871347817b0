"""The pair as bundles, and their answers through the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.knowledge_pair.conditions import Condition, FuserName
from benchmarks.knowledge_pair.facts import Fact, strangers
from benchmarks.knowledge_pair.paths import Parts
from c2c_export.build import BuildOptions, build_bundle
from c2c_export.pair import explicit_pair
from c2c_export.progress import Stages
from c2c_runtime import GenerationOptions, Session

MAX_NEW_TOKENS = 2  # a city and the end


def build_bundles(
    parts: Parts, fusers: Mapping[FuserName, Path], directory: Path
) -> dict[FuserName, Path]:
    """Build the pair in fp32 with each of the Fusers, into ``directory``."""
    bundles: dict[FuserName, Path] = {}
    for name, fuser in fusers.items():
        source = explicit_pair(str(parts.receiver), [str(parts.sharer)], [fuser])
        bundles[name] = directory / f"{name}.bundle"
        build_bundle(source, bundles[name], BuildOptions(), Stages())
    return bundles


def compiled_answers(session: Session, facts: Sequence[Fact], condition: Condition) -> list[str]:
    """The answer to each fact's prompt, as text. ``session``: of the condition's bundle."""
    options = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS, mode=condition.mode)
    conversation = session.conversation()
    answers = []
    for fact, stranger in zip(facts, strangers(facts), strict=True):
        sections = session.sections_of_text(condition.prompt_of(fact))
        if condition.lent == "stranger":
            lent = session.sections_of_text(condition.prompt_of(stranger))
            sections = [
                replace(section, sharer_ids=other.sharer_ids)
                for section, other in zip(sections, lent, strict=True)
            ]
        conversation.reset()
        answers.append(session.answer(sections, options, conversation).finish().text or "")
    return answers
