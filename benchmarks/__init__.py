"""Measurements against peers, and pairs of full size to measure on."""
