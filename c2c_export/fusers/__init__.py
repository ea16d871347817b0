"""In: a published Fuser checkpoint. Out: PyTorch modules that compute what the published code
computes.
"""
