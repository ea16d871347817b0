"""In: an open bundle. Out: how far it is from what eager PyTorch computed."""
