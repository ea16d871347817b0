"""In: the words that name a pair. Out: a prepared pair: models, layer map, gates, limits,
alignment, every problem named.
"""
