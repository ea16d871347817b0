"""In: models and Fusers. Out: ONNX graphs with their weights on disk, and what they cost."""
