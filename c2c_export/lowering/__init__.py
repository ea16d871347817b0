"""In: a transformers model under trace. Out: the operators of one dialect: attention over a cache,
rotary, weights.
"""
