"""In: token ids of the Receiver's, or texts. Out: sections: what each model reads, and what is
fused.
"""
