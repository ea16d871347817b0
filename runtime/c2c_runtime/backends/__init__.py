"""In: a graph or engine of a bundle. Out: the same, loaded, and bound to memory: ONNX Runtime on
CPU and CUDA, TensorRT.
"""
