"""The dialect ``tensorrt-scatter`` against what the published reference computed.

The golden folders in which its own part can differ, the writing of caches: windows, several sections,
closed gates, several Sharers; ``test_static_golden`` has them all. In fp32, and one in fp16 against the
same numbers, by cosine. On ONNX Runtime CPU.
"""

from __future__ import annotations

import pytest
from static_golden import check_fuser, check_numbers, check_verification, golden_of

NAMES = ("gates_closed", "qwen3_from_gemma3", "sections", "two_sharers_parallel")
VARIANTS = [
    *(("tensorrt-scatter", "fp32", name) for name in NAMES),
    ("tensorrt-scatter", "fp16", "all_in_one"),
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
