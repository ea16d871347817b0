"""What a build may be asked for: the same bounds from the command line and from a program."""

from __future__ import annotations

import pytest

from c2c_export.pair.asked import AskedLimits
from c2c_runtime.bundle.manifest import Limits, ModelDims
from c2c_runtime.errors import UsageError


def model(max_positions: int | None) -> ModelDims:
    return ModelDims("qwen3", 2, 2, 16, 256, max_positions, None, "float32")


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"max_seq_len": 8}, "--max-seq-len 8"),
        ({"max_seq_len": 0}, "--max-seq-len 0"),
        ({"max_seq_len": 64.5}, "--max-seq-len 64.5"),
        ({"max_seq_len": 64, "max_prompt_len": 0}, "--max-prompt-len 0"),
        ({"max_batch_size": 0}, "--max-batch-size 0"),
    ],
)
def test_what_no_bundle_can_have_is_refused_whoever_asks(asked, option):
    with pytest.raises(UsageError, match=option):
        AskedLimits(**asked)


def test_the_command_line_refuses_the_same(cli, tmp_path):
    called = cli("build", "--pair", "a+b", "--max-seq-len", 8, "-o", tmp_path / "b")
    assert called.code == 2
    assert "--max-seq-len 8: a bundle has at least 16 tokens" in called.err


def test_what_is_not_asked_for_follows_the_models():
    assert AskedLimits().of([model(None)]) == Limits(2048, 1024, 1)
    assert AskedLimits().of([model(512), model(4096)]) == Limits(512, 512, 1)
    assert AskedLimits(100, max_batch_size=4).of([model(512)]) == Limits(100, 100, 4)
    assert AskedLimits(16, 4).of([model(None)]) == Limits(16, 4, 1)
