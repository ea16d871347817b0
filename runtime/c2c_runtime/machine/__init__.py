"""In: this machine. Out: what it has (cores, memory, GPUs, packages), and which backend a bundle
runs on here.
"""
