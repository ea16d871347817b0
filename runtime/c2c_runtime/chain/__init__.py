"""In: sections. Out: caches and logits: the prefills, the fuse and the decode steps of one
conversation.
"""
