"""What few bits cost a peer, measured as ``build`` measures a bundle: against eager PyTorch in fp32.

    python -m benchmarks.peer_loss int4.bundle --pair demo

The reference and its text are the bundle's, so the bundle must be one whose weights have few bits.
"""

from __future__ import annotations

from pathlib import Path

import click

from c2c_export.bench.peer import PeerSetup
from c2c_export.bench.peer_genai import PRECISIONS, GenAI
from c2c_export.pair.pair import parse_pair
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.bundle.manifest import Loss
from c2c_runtime.checks.loss import LossReference, loss_as_json, loss_of
from c2c_runtime.machine.cores import num_usable_cores


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--pair", "pair_name", required=True, help="The pair that the bundle was built from.")
def main(bundle: Path, pair_name: str) -> None:
    """Print a line a precision of ONNX Runtime GenAI, and the bundle's own."""
    opened = Bundle.open(bundle)
    spec = opened.manifest.loss
    if spec is None:
        raise click.UsageError(f"{bundle} holds no loss: build it with --precision int4")
    reference = LossReference.load(opened.path_of(spec.path))
    _say(bundle.name, spec.measured)
    limits = opened.manifest.limits
    setup = PeerSetup(parse_pair(pair_name), lambda _: (), limits.max_seq_len, num_usable_cores())
    for precision in PRECISIONS:
        peer = GenAI(setup, precision)
        _say(peer.name, loss_of(peer.stepper(), reference))
        peer.close()


def _say(name: str, loss: Loss) -> None:
    facts = loss_as_json(loss)
    click.echo(
        f"{name}: perplexity {facts['perplexity_ratio']:.3f} of fp32's, same best token "
        f"{facts['greedy_agreement']:.1%}, KL divergence {facts['kl_divergence']:.4f}"
    )


if __name__ == "__main__":
    main()
