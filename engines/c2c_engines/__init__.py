"""Graph -> engine, for one backend and target. Needs no TensorRT until something is built.

``c2c_engines.bundle_engines`` builds the engines of a bundle, ``c2c_engines.process`` one engine in a
process of its own, ``c2c_engines.builder`` one engine in this process.
"""
