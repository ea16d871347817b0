"""In: a directory, hub id or GGUF file. Out: its config, weights, tokenizer and headers, as the
file says them.
"""
