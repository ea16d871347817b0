"""Options that several commands have."""

from __future__ import annotations

import click

from c2c_runtime.backend_choice import DEVICES

device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where to run; auto: engines that fit this machine, else what the graphs were made for.",
)
