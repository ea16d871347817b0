"""Pairs of full size with random weights, for machines that do not reach the hub.

``configs/`` holds the published sizes of the paper's models; ``python -m benchmarks.full_size`` writes
checkpoints of them and a Fuser of full size.
"""
