"""``c2c-export bench``: measures bundles, and peers in the same run.

``contender`` says what can be measured, ``rounds`` lets contenders take turns, ``run`` puts the parts
together and ``results`` is what comes out; ``report_*`` show it.
"""
