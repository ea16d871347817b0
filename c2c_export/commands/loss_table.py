"""What few bits lose, for people."""

from __future__ import annotations

from rich.table import Table

from c2c_runtime.bundle.manifest import Loss


def loss_table(loss: Loss) -> Table:
    """One number a row, against the unquantised Receiver."""
    table = Table(
        show_header=False,
        title=f"The Receiver's weights in few bits against fp32, {loss.num_tokens} tokens",
    )
    table.add_row(
        "perplexity",
        f"{loss.perplexity:.4g}, {loss.perplexity_ratio:.4f} of fp32's {loss.perplexity_fp32:.4g}",
    )
    table.add_row("same best token", f"{loss.greedy_agreement:.1%}")
    table.add_row("KL divergence, mean", f"{loss.kl_divergence:.2g} nats, 64 tokens and the rest")
    table.add_row("cosine of logits", f"mean {loss.mean_cosine:.5f}, least {loss.least_cosine:.5f}")
    return table
