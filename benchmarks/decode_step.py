"""The demo pair's Receiver, from the bundle and in eager transformers, side by side in one run.

Usage: python -m benchmarks.decode_step [--rounds 3] [--tokens 32] [--bundle .demo/demo.bundle]

Prints milliseconds a decode step and to the first token, and their ratios: the median over rounds,
the two sides taking turns. Absolute times are this machine's; only ratios of one run count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from c2c_export.build import BuildOptions, build_bundle
from c2c_export.checkpoints import load_model, resolve_model
from c2c_export.demo import smollm2_gguf
from c2c_export.pair import parse_pair
from c2c_export.progress import Stages
from c2c_runtime import GenerationOptions, Session

PROMPT = "Why is the sky blue? Explain it to a child in a few short sentences, please."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--bundle", type=Path, default=Path(".demo/demo.bundle"))
    args = parser.parse_args()
    if not args.bundle.exists():
        build_bundle(parse_pair("demo"), args.bundle, BuildOptions(), Stages())
    model = load_model(resolve_model(str(smollm2_gguf())))
    rows: dict[str, list[tuple[float, float]]] = {"bundle": [], "eager": []}
    with Session.open(args.bundle) as session:
        sections = session.sections_of_text(PROMPT)
        ids = [token_id for section in sections for token_id in section.receiver_ids]
        options = GenerationOptions(max_new_tokens=args.tokens, mode="receiver", ignore_eos=True)
        conversation = session.conversation()
        for _ in range(args.rounds):
            timings = session.answer(sections, options, conversation).finish().timings
            each = timings.decode_s / timings.decode_steps
            rows["bundle"].append((timings.first_token_s, each))
            rows["eager"].append(_eager(model, ids, args.tokens))
    print(f"{len(ids)} tokens in, {args.tokens} out, {torch.get_num_threads()} threads, fp32")
    for side, times in rows.items():
        first, each = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        print(f"{side:7s} first token {first:7.1f} ms, decode step {each:6.1f} ms")
    for index, what in enumerate(("first token", "decode step")):
        ratios = [b[index] / e[index] for b, e in zip(rows["bundle"], rows["eager"], strict=True)]
        print(f"bundle / eager, {what}: {statistics.median(ratios):.2f}")


def _eager(model, ids: list[int], num_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and a decode step, of greedy decoding with a growing cache."""
    from transformers import DynamicCache

    cache = DynamicCache()
    inputs = torch.tensor([ids])
    times = []
    with torch.no_grad():
        for _ in range(num_tokens):
            started = time.perf_counter()
            logits = model(input_ids=inputs, cache=cache, use_cache=True, logits_to_keep=1).logits
            inputs = logits[:, -1].argmax(-1, keepdim=True)
            times.append(time.perf_counter() - started)
    return times[0], statistics.mean(times[1:])


if __name__ == "__main__":
    main()
