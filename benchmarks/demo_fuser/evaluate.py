"""``python -m benchmarks.demo_fuser.evaluate BUNDLE``: who knows how many of the held-out words.

Everything is asked of compiled bundles, one word after the other, all conditions of a word side by side.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.demo_fuser.by_text import BY_TEXT
from benchmarks.demo_fuser.conditions import CONDITIONS, Condition, FuserName
from benchmarks.demo_fuser.words import DICTIONARIES, Word, read_words, split_words
from c2c_export.eval.short_answers import is_accepted, short_answer
from c2c_export.eval.statistics import Accuracy, Paired
from c2c_export.pair.demo import word_sections
from c2c_export.reports.charts import Point, point_chart
from c2c_export.reports.html_page import svg_file
from c2c_runtime import Conversation, Generation, GenerationOptions, Session
from c2c_runtime.answers.generation import sections_for_mode
from c2c_runtime.answers.likelihood import ContinuationScorer
from c2c_runtime.sections.alignment import Section

_MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Reply:
    """What one condition made of a word. ``loss``: nats a token of the first gloss; None where the
    Receiver does not answer the prompt itself."""

    answer: str
    is_first: bool
    is_any: bool
    loss: float | None
    first_token_s: float
    question_s: float


@dataclass(frozen=True)
class Row:
    """A condition's replies to all words, in their order."""

    condition: Condition
    replies: tuple[Reply, ...]

    @property
    def first(self) -> Accuracy:
        """Replies that are the first gloss."""
        return Accuracy(sum(reply.is_first for reply in self.replies), len(self.replies))

    @property
    def any(self) -> Accuracy:
        """Replies that are one of the glosses."""
        return Accuracy(sum(reply.is_any for reply in self.replies), len(self.replies))

    @property
    def loss(self) -> tuple[float, float] | None:
        """Mean over words, and half of its 95 % interval."""
        losses = [reply.loss for reply in self.replies if reply.loss is not None]
        if not losses:
            return None
        return statistics.mean(losses), 1.96 * statistics.stdev(losses) / math.sqrt(len(losses))


def evaluate(sessions: Mapping[FuserName, Session], words: Sequence[Word]) -> list[Row]:
    """Ask every word under every condition."""
    replies: dict[str, list[Reply]] = {condition.key: [] for condition in CONDITIONS}
    conditions = [condition for condition in CONDITIONS if condition.fuser in sessions]
    kinds = {(condition.fuser, condition.keeps_examples) for condition in conditions}
    conversations = {kind: sessions[kind[0]].conversation() for kind in kinds}
    # The first word is asked once for nothing: what runs for the first time is slower.
    for number, word in enumerate([words[0], *words]):
        for condition in conditions:
            conversation = conversations[condition.fuser, condition.keeps_examples]
            reply = _reply(sessions[condition.fuser], conversation, condition, word, words)
            if number:
                replies[condition.key].append(reply)
        if number % 50 == 0:
            print(f"{number} of {len(words)} words", file=sys.stderr, flush=True)
    return [Row(condition, tuple(replies[condition.key])) for condition in conditions]


def _reply(
    session: Session,
    conversation: Conversation,
    condition: Condition,
    word: Word,
    words: Sequence[Word],
) -> Reply:
    options = GenerationOptions(_MAX_NEW_TOKENS, condition.mode, text_to_text=BY_TEXT)
    if condition.mode in ("sharer", "t2t"):
        return _judged(word, session.ask(condition.text_of(word), options).finish(), None)
    sections = condition.sections_of(session, word)
    if condition.lent == "stranger":
        sections = _with_another_words_cache(session, sections, word, words)
    if not condition.keeps_examples:
        conversation.reset()
    generation = session.answer(sections, options, conversation).finish()
    scorer = ContinuationScorer(conversation, sections_for_mode(sections, condition.mode))
    gloss = word.glosses[0] if condition.num_examples is None else f" {word.glosses[0]}"
    log_probs = scorer.score(session.tokenizer().encode(gloss))
    return _judged(word, generation, -statistics.mean(log_probs))


def _with_another_words_cache(
    session: Session, sections: Sequence[Section], word: Word, words: Sequence[Word]
) -> list[Section]:
    """The same sections, of which the Sharer reads another word, the next with as many tokens."""
    examples, own, *rest = sections
    place = words.index(word)
    for other in [*words[place + 1 :], *words[:place]]:
        texts = word_sections(other.language, other.text)
        _, lent, *_ = session.sections_of_texts(texts)
        if len(lent.sharer_ids[0]) == len(own.sharer_ids[0]):
            return [examples, replace(own, sharer_ids=lent.sharer_ids), *rest]
    return list(sections)


def _judged(word: Word, generation: Generation, loss: float | None) -> Reply:
    answer = short_answer(generation.text or "")
    times = generation.timings
    return Reply(
        answer,
        is_accepted(answer, word.glosses[:1]),
        is_accepted(answer, word.glosses),
        loss,
        times.first_token_s,
        times.first_token_s + times.decode_s,
    )


def as_table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| | a gloss | first gloss | loss a token | first token | a word |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        loss = "" if row.loss is None else "{:.2f} ± {:.2f}".format(*row.loss)
        times = [
            1e3 * statistics.median(getattr(reply, name) for reply in row.replies)
            for name in ("first_token_s", "question_s")
        ]
        cells = [
            row.condition.title,
            str(row.any),
            str(row.first),
            loss,
            *(f"{time:.0f} ms" for time in times),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(rows: Sequence[Row]) -> str:
    """C2C against every other condition, on the same words."""
    c2c, *others = rows
    lines = []
    for row in others:
        paired = Paired.of(*([reply.is_any for reply in one.replies] for one in (c2c, row)))
        low, high = paired.interval
        lines.append(
            f"C2C minus {row.condition.title}: {100 * paired.difference:+.1f} points "
            f"({100 * low:+.1f} to {100 * high:+.1f}), p {paired.p_value:.2g}"
        )
    return "\n".join(lines)


def as_chart(rows: Sequence[Row]) -> str:
    """An SVG file: share of words against time."""
    points = []
    for row in rows:
        if not row.condition.is_drawn:
            continue
        time_s = statistics.median(reply.question_s for reply in row.replies)
        points.append(Point(row.condition.title, 1e3 * time_s, row.any.share, *row.any.interval))
    highest = max(point.high for point in points)
    up_to = min(100, 10 * math.ceil(10 * highest))
    title = "Held-out words answered with one of the dictionary's glosses"
    return svg_file(point_chart(title, "ms a word, median", points, up_to=up_to))


def as_json(rows: Sequence[Row], words: Sequence[Word]) -> dict[str, Any]:
    """Every reply to every word."""
    return {
        "words": [asdict(word) for word in words],
        "replies": {row.condition.key: [asdict(reply) for reply in row.replies] for row in rows},
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--control", type=click.Path(path_type=Path), help="The pair with the control Fuser.")
@click.option("--dictionaries", type=click.Path(path_type=Path), default=DICTIONARIES)
@click.option("--limit", type=int, help="Ask as many of the 400, spread evenly.")
@click.option("--output", type=click.Path(path_type=Path), help="Write every reply as JSON.")
@click.option("--chart", type=click.Path(path_type=Path), help="Write the chart of docs/ as SVG.")
def main(
    bundle: Path,
    control: Path | None,
    dictionaries: Path,
    limit: int | None,
    output: Path | None,
    chart: Path | None,
) -> None:
    """BUNDLE: the demo pair, built --with-baselines."""
    words = split_words(read_words(dictionaries)).held_out
    if limit:
        words = words[:: max(len(words) // limit, 1)][:limit]
    paths: dict[FuserName, Path] = {"fuser": bundle}
    if control:
        paths["control"] = control
    sessions = {name: Session.open(path) for name, path in paths.items()}
    try:
        rows = evaluate(sessions, words)
    finally:
        for session in sessions.values():
            session.close()
    print(f"{len(words)} held-out words\n\n{as_table(rows)}\n\n{differences(rows)}")
    if chart:
        chart.write_text(as_chart(rows))
    if output:
        output.write_text(json.dumps(as_json(rows, words), ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
