"""What the CPU backend keeps for a whole process."""

from __future__ import annotations

import gc

from tiny_bundles import copied, text_bundle

from c2c_runtime.backends import ort_backend
from c2c_runtime.backends.ort_backend import OrtBackend
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle


def test_nothing_stays_of_bundles_that_are_gone(tmp_path, tmp_path_factory):
    """A server that builds and opens bundles anew does not grow."""
    source = text_bundle(tmp_path_factory) / "bundle"
    gc.collect()
    held = len(ort_backend._shared), len(ort_backend._locks)
    for number in range(3):
        bundle = Bundle.open(copied(source, tmp_path / str(number)))
        OrtBackend(bundle, 1).load(names.FUSER)
    gc.collect()
    assert (len(ort_backend._shared), len(ort_backend._locks)) == held
