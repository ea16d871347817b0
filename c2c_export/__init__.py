"""The c2c-export compiler: checkpoints -> pair -> graphs -> bundle, and the command line."""

__version__ = "0.1.0"
