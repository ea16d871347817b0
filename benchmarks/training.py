"""One training loop for all models and Fusers: AdamW, a short warm-up, a cosine to zero, progress lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_WARM_UP_STEPS = 50
_PROGRESS_STEPS = 100


def train(
    what: str,
    parameters: Sequence[nn.Parameter],
    loss_of_batch: Callable[[], tuple[Tensor, Tensor]],
    *,
    num_steps: int,
    peak_rate: float,
) -> None:
    """``loss_of_batch`` draws a batch: its loss, and its share of right answers for the progress."""
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, num_steps))
    started = time.perf_counter()
    for step in range(1, num_steps + 1):
        loss, right = loss_of_batch()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % _PROGRESS_STEPS == 0 or step == num_steps:
            print(
                f"{what}: step {step} of {num_steps}, loss {loss.item():.4f}, "
                f"right {100 * right.item():.1f} %, {time.perf_counter() - started:.0f} s",
                flush=True,
            )


def answer_loss(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy a token, and the share of rows whose first token is right.

    ``logits``: [batch, tokens, vocab_size], ``answers``: [batch, tokens].
    """
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
    return loss, (logits[:, 0].argmax(-1) == answers[:, 0]).float().mean()


def _share(step: int, num_steps: int) -> float:
    warm = min((step + 1) / _WARM_UP_STEPS, 1.0)
    return warm * 0.5 * (1 + math.cos(math.pi * step / num_steps))
