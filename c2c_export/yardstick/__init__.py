"""In: a pair in eager PyTorch. Out: golden cases and losses that graphs are held against."""
