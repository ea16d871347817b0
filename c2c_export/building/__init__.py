"""In: a pair and build options. Out: a verified bundle. Not `build/`: git, ruff and pytest take
that name for output.
"""
