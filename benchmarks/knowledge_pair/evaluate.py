"""``python -m benchmarks.knowledge_pair.evaluate``: who answers how many of the facts.

Builds the pair four times (its Fuser in fp32 and int8, closed gates, the control), asks the bundles
through the runtime and the same models in eager PyTorch, and prints a table, or JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.knowledge_pair.compiled import build_bundles, compiled_answers
from benchmarks.knowledge_pair.conditions import CONDITIONS, BundleName, Condition
from benchmarks.knowledge_pair.eager import EagerPair
from benchmarks.knowledge_pair.facts import Fact, read_facts
from benchmarks.knowledge_pair.fusers import all_fusers
from benchmarks.knowledge_pair.paths import HERE, Parts
from benchmarks.knowledge_pair.scores import Score
from c2c_runtime import Generation, Session


@dataclass(frozen=True)
class Row:
    """A condition's scores. ``num_differing``: answers that are not the same on both sides.
    ``question_s``: median seconds a question, from the prompt to the end of the answer, compiled."""

    condition: Condition
    compiled: Score
    eager: Score
    num_differing: int
    question_s: float


def evaluate(
    facts: Sequence[Fact], bundles: Mapping[BundleName, Path], eager: EagerPair
) -> list[Row]:
    """Ask every fact under every condition, of the bundles and of eager PyTorch."""
    rows = []
    answers: dict[Condition, tuple[list[Generation], list[str]]] = {}
    # Models this small only lose time to a second thread.
    sessions = {name: Session.open(path, num_threads=1) for name, path in bundles.items()}
    try:
        for condition in CONDITIONS:
            asked = condition.as_asked
            if asked not in answers:
                print(f"asking: {condition.title}", file=sys.stderr, flush=True)
                compiled_side = compiled_answers(sessions[asked.bundle], facts, asked)
                answers[asked] = compiled_side, eager.answers(facts, asked)
            generations, eager_side = answers[asked]
            compiled_side = [generation.text or "" for generation in generations]
            differing = sum(a != b for a, b in zip(compiled_side, eager_side, strict=True))
            compiled_score = condition.score(facts, compiled_side)
            eager_score = condition.score(facts, eager_side)
            times = [found.timings.first_token_s + found.timings.decode_s for found in generations]
            rows.append(
                Row(condition, compiled_score, eager_score, differing, statistics.median(times))
            )
    finally:
        for session in sessions.values():
            session.close()
    return rows


def as_table(rows: Sequence[Row]) -> str:
    """Markdown; accuracies with Wilson's 95 % intervals."""
    lines = [
        "| | compiled | eager PyTorch, fp32 | answers that differ | a question, compiled |",
        "|---|---|---|---|---|",
        *(
            f"| {row.condition.title} | {row.compiled} | {row.eager} | {row.num_differing} "
            f"| {1e3 * row.question_s:.1f} ms |"
            for row in rows
        ),
    ]
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Plain types, by condition."""

    return {
        row.condition.key: {
            "title": row.condition.title,
            "compiled": row.compiled.as_json(),
            "eager": row.eager.as_json(),
            "num_differing": row.num_differing,
            "question_s": row.question_s,
        }
        for row in rows
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="example: python -m benchmarks.knowledge_pair.evaluate --split train --json",
    )
    parser.add_argument("directory", type=Path, nargs="?", default=HERE, help="of the pair")
    parser.add_argument("--split", choices=("held_out", "train"), default="held_out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = Parts(args.directory)
    facts = read_facts(parts.facts, args.split)
    with tempfile.TemporaryDirectory() as directory:
        fusers = all_fusers(parts, Path(directory))
        print("building four bundles", file=sys.stderr, flush=True)
        bundles = build_bundles(parts, fusers, Path(directory))
        eager = EagerPair(parts, fusers)
        rows = evaluate(facts, bundles, eager)
        sharer = Score.of(eager.sharer_answers(facts), [fact.city for fact in facts])
    if args.json:
        print(json.dumps(as_json(rows) | {"sharer_accuracy": sharer.accuracy}, indent=2))
    else:
        print(f"{len(facts)} facts, split {args.split}; the Sharer itself knows {sharer}\n")
        print(as_table(rows))


if __name__ == "__main__":
    main()
