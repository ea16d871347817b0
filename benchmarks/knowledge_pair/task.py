"""``python -m benchmarks.knowledge_pair.task > facts.jsonl``: the facts as a task of ``c2c-export eval``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

from benchmarks.knowledge_pair.facts import Fact, read_facts
from benchmarks.knowledge_pair.paths import Parts


def task_lines(facts: Sequence[Fact]) -> Iterator[str]:
    """One item a fact: its prompt as it is, and its city as the answer."""
    for fact in facts:
        yield json.dumps(
            {"id": fact.name, "question": fact.question, "prompt": fact.prompt, "answer": fact.city}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--split", choices=("held_out", "train"), default="held_out")
    args = parser.parse_args()
    for line in task_lines(read_facts(Parts().facts, args.split)):
        print(line)


if __name__ == "__main__":
    main()
