"""The dialect ``tensorrt`` against what the published reference computed: every golden folder.

In fp32, and some in fp16 against the same numbers, by cosine. On ONNX Runtime CPU.
"""

from __future__ import annotations

import pytest
from static_golden import CASES, check_fuser, check_numbers, check_verification, golden_of

VARIANTS = [
    *(("tensorrt", "fp32", name) for name in CASES),
    *(("tensorrt", "fp16", name) for name in ("qwen3_from_gemma3", "two_sharers_parallel")),
]


@pytest.fixture(scope="module", params=VARIANTS, ids="-".join)
def golden(request, tmp_path_factory):
    return golden_of(request.param, tmp_path_factory)


def test_every_cache_and_logit_equals_the_reference(golden):
    check_numbers(golden)


def test_verification_passes_and_says_by_what(golden):
    check_verification(golden)


def test_the_fuser_writes_its_caches_in_place(golden):
    check_fuser(golden)
