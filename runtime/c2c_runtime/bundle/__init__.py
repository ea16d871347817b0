"""In: a directory. Out: a checked bundle: its manifest, paths, tensor names and cache sizes. The
contract with the compiler.
"""
