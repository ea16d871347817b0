"""``python -m benchmarks.knowledge_pair.train DIR``: make the pair from nothing but a seed.

One thread, so that sums come in one order: the same machine and versions give the same weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.knowledge_pair.facts import make_facts, write_facts
from benchmarks.knowledge_pair.models import RECEIVER, SHARER, new_model, save_model
from benchmarks.knowledge_pair.paths import HERE, Parts
from benchmarks.knowledge_pair.train_fuser import Questions, train_fuser
from benchmarks.knowledge_pair.train_models import train_receiver, train_sharer
from benchmarks.knowledge_pair.words import make_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model-steps", type=int, default=1000)
    parser.add_argument("--fuser-steps", type=int, default=1000)
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    started = time.perf_counter()
    make_pair(Parts(args.directory), args.seed, args.model_steps, args.fuser_steps)
    print(f"the whole pair: {time.perf_counter() - started:.0f} s")


def make_pair(parts: Parts, seed: int, model_steps: int, fuser_steps: int) -> None:
    """Facts, tokenizers, Sharer, Receiver, Fuser, control; what is there is replaced."""
    torch.set_num_threads(1)
    parts.root.mkdir(parents=True, exist_ok=True)
    facts = make_facts(seed)
    write_facts(facts, parts.facts)

    torch.manual_seed(seed + 1)
    sharer_words = make_tokenizer(facts, seed + 1)
    sharer = new_model(SHARER, sharer_words)
    train_sharer(sharer, sharer_words, facts, num_steps=model_steps)
    sharer = save_model(sharer, sharer_words, parts.sharer)

    torch.manual_seed(seed + 2)
    receiver_words = make_tokenizer(facts, seed + 2)
    receiver = new_model(RECEIVER, receiver_words)
    names = [fact.name for fact in facts]
    train_receiver(receiver, receiver_words, names, num_steps=model_steps)
    receiver = save_model(receiver, receiver_words, parts.receiver)

    seen = [fact for fact in facts if fact.split == "train"]
    questions = Questions.of(seen, (receiver, receiver_words), (sharer, sharer_words))
    for directory, shuffled in ((parts.fuser, False), (parts.control, True)):
        torch.manual_seed(seed + 3)
        train_fuser(
            questions,
            receiver,
            (parts.receiver, parts.sharer),
            directory,
            num_steps=fuser_steps,
            shuffled=shuffled,
        )
    parts.checksums.write_text(parts.hashes(), "utf-8")


if __name__ == "__main__":
    main()
