"""``python -m benchmarks.demo_fuser.train BUNDLE``: train the demo pair's Fuser, and its control.

Both models are frozen; the loss is that of the next token of the Receiver's answer over its fused cache. The
control is the same Fuser from the same seeds, for which every example comes with the Sharer's cache of
another of the same length: what it gains is tuning, not the Sharer's knowledge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.demo_fuser.frozen import IGNORED, Bucket, load_frozen
from benchmarks.demo_fuser.questions import Question, read_questions
from benchmarks.demo_fuser.words import DICTIONARIES, read_words, split_words
from benchmarks.fuser_training import FuserInTraining
from benchmarks.training import train
from c2c_export.fusers.fuser_checkpoint import LinkedLayers
from c2c_export.pair.demo import gemma3_gguf, smollm2_gguf
from c2c_export.reading.model_source import ModelSource, resolve_model
from c2c_runtime.answers.session import Session

_SEED = 11
_WATCH_STEPS = 250


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--dictionaries", type=click.Path(path_type=Path), default=DICTIONARIES)
@click.option("--control", is_flag=True, help="Shuffle the Sharer's caches between examples.")
@click.option("--steps", type=int, default=1500, show_default=True)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--max-words", type=int, help="To train on; default: all.")
@click.option("--threads", type=int, default=2, show_default=True)
def main(
    bundle: Path,
    output: Path,
    dictionaries: Path,
    control: bool,
    steps: int,
    batch_size: int,
    max_words: int | None,
    threads: int,
) -> None:
    """Train a Fuser into OUTPUT. BUNDLE: the demo pair with any Fuser, for tokenizers and alignment."""
    torch.set_num_threads(threads)
    words = split_words(read_words(dictionaries))
    with Session.open(bundle) as session:
        questions = read_questions(session, words.train[:max_words])
        watched = read_questions(session, words.watched)
    sources = resolve_model(str(smollm2_gguf())), resolve_model(str(gemma3_gguf()))
    train_fuser(
        sources,
        questions,
        watched,
        output,
        num_steps=steps,
        batch_size=batch_size,
        is_control=control,
    )


def train_fuser(
    sources: tuple[ModelSource, ModelSource],
    questions: Sequence[Question],
    watched: Sequence[Question],
    output: Path,
    *,
    num_steps: int,
    batch_size: int,
    is_control: bool = False,
    hidden_dim: int = 96,
) -> None:
    """Write a Fuser of the published layout, float16, all gates open, trained on ``questions``.

    ``sources``: Receiver and Sharer. ``watched``: questions whose loss is printed now and then. What is
    written is replaced as training goes on, so a stopped training leaves what it had. The same arguments
    give the same Fuser on the same machine.
    """
    receiver, sharer = (load_frozen(source) for source in sources)
    fuser = FuserInTraining.begin(*sources, output, hidden_dim=hidden_dim, seed=_SEED)
    num_done = 0

    def save() -> None:
        recipe = json.loads((output / "config.json").read_text())
        recipe["note"] = (
            f"trained by benchmarks.demo_fuser{', control' if is_control else ''}: {len(questions)} words, "
            f"{num_done} of {num_steps} steps of {batch_size}, seed {_SEED}"
        )
        (output / "config.json").write_text(json.dumps(recipe, indent=2) + "\n")
        fuser.save()

    torch.manual_seed(_SEED)
    draw = random.Random(_SEED)
    buckets = Bucket.all_of(questions, receiver, sharer)
    sizes = [len(bucket.questions) for bucket in buckets]
    watched_buckets = Bucket.all_of(watched, receiver, sharer)

    def loss_of_batch() -> tuple[Tensor, Tensor]:
        nonlocal num_done
        if num_done and num_done % _WATCH_STEPS == 0:
            save()
            print(
                f"watched words: {_watched_loss(watched_buckets, receiver, fuser.layers)}",
                flush=True,
            )
        num_done += 1
        (bucket,) = draw.choices(buckets, sizes)
        rows = torch.randint(len(bucket.questions), (batch_size,))
        lent = torch.randint(len(bucket.questions), (batch_size,)) if is_control else rows
        return _loss(bucket, receiver, fuser.layers, rows, lent, draw)

    what = "control Fuser" if is_control else "Fuser"
    train(what, fuser.parameters(), loss_of_batch, num_steps=num_steps, peak_rate=1e-3)
    print(f"watched words: {_watched_loss(watched_buckets, receiver, fuser.layers)}", flush=True)
    save()


def _loss(
    bucket: Bucket,
    receiver: PreTrainedModel,
    linked: LinkedLayers,
    rows: Tensor,
    lent: Tensor,
    draw: random.Random | None,
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy a token of the answers, and the share of rows whose first token is right."""
    read, said = bucket.answers(rows, draw)
    own, others = bucket.receiver.of(rows).float(), bucket.sharer.of(lent).float()
    before, fused = own[..., : -bucket.num_fused, :], own[..., -bucket.num_fused :, :]
    cache = DynamicCache()
    with torch.autocast("cpu", torch.bfloat16):
        for target, (source, layer) in linked.items():
            new = layer(
                others[:, source, 0], others[:, source, 1], fused[:, target, 0], fused[:, target, 1]
            )
            whole = [
                torch.cat([before[:, target, kind], written], 2).bfloat16()
                for kind, written in enumerate(new)
                if written is not None
            ]
            cache.update(*whole, target)
    positions = bucket.answer_position + torch.arange(read.shape[1])
    states = receiver.model(
        input_ids=read,
        position_ids=positions.expand(len(rows), -1),
        cache=cache,
        use_cache=True,
    ).last_hidden_state
    says = said != IGNORED
    logits = receiver.lm_head(states[says]).float()
    loss = torch.nn.functional.cross_entropy(logits, said[says])
    starts = torch.cumsum(says.sum(1), 0) - says.sum(1)
    right = logits[starts].argmax(-1) == said[says][starts]
    return loss, right.float().mean()


def _watched_loss(
    buckets: Sequence[Bucket], receiver: PreTrainedModel, linked: LinkedLayers
) -> str:
    """Words that are not trained on, with their own Sharer caches and with those of the next word."""
    texts = []
    for shift, what in ((0, "own cache"), (1, "another word's cache")):
        losses = []
        for bucket in buckets:
            rows = torch.arange(len(bucket.questions))
            with torch.no_grad():
                loss, right = _loss(bucket, receiver, linked, rows, rows.roll(shift), None)
            losses.append((len(rows), loss.item(), right.item()))
        total = sum(num for num, _, _ in losses)
        loss, right = (sum(num * value[i] for num, *value in losses) / total for i in (0, 1))
        texts.append(f"{what}: loss {loss:.3f}, first token {100 * right:.1f} %")
    return "; ".join(texts)


if __name__ == "__main__":
    main()
