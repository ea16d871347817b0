"""Measurements against peers, as ratios within one run. Not part of the installed packages."""
