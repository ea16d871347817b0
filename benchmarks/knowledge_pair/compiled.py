"""The pair as bundles, and their answers through the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.knowledge_pair.by_text import BY_TEXT
from benchmarks.knowledge_pair.conditions import BundleName, Condition, FuserName
from benchmarks.knowledge_pair.facts import Fact, strangers
from benchmarks.knowledge_pair.paths import Parts
from c2c_export.building.build import build_bundle
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.build_target import build_target
from c2c_export.building.progress import Stages
from c2c_export.pair.pair import explicit_pair
from c2c_runtime import Generation, GenerationOptions, Session

MAX_NEW_TOKENS = 2  # a city and the end


def build_bundles(
    parts: Parts, fusers: Mapping[FuserName, Path], directory: Path
) -> dict[BundleName, Path]:
    """Build the pair with each of the Fusers, and with its own in int8, into ``directory``. The Sharer of
    the pair with its own Fuser can speak."""
    bundles: dict[BundleName, Path] = {}
    wanted: list[BundleName] = [(name, "fp32") for name in fusers]
    for name, precision in [*wanted, ("fuser", "int8")]:
        source = explicit_pair(str(parts.receiver), [str(parts.sharer)], [fusers[name]])
        options = BuildOptions(
            target=build_target("ort", ["cpu"], precision=precision),
            with_baselines=(name, precision) == ("fuser", "fp32"),
        )
        path = directory / f"{name}.{precision}.bundle"
        build_bundle(source, path, options, Stages())
        bundles[name, precision] = path
    return bundles


def compiled_answers(
    session: Session, facts: Sequence[Fact], condition: Condition
) -> list[Generation]:
    """The answer to each fact's prompt. ``session``: of the condition's bundle."""
    options = GenerationOptions(
        max_new_tokens=MAX_NEW_TOKENS, mode=condition.mode, text_to_text=BY_TEXT
    )
    conversation = session.conversation()
    answers = []
    for fact, stranger in zip(facts, strangers(facts), strict=True):
        conversation.reset()
        prompt = condition.prompt_of(fact)
        if condition.lent == "stranger":
            lent = session.sections_of_text(condition.prompt_of(stranger))
            sections = [
                replace(section, sharer_ids=other.sharer_ids)
                for section, other in zip(session.sections_of_text(prompt), lent, strict=True)
            ]
            answer = session.answer(sections, options, conversation)
        else:
            answer = session.ask(prompt, options, conversation)
        answers.append(answer.finish())
    return answers
