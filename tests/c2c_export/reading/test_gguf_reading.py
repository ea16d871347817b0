from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest

from c2c_export.reading.gguf_reading import plain_arrays

TOKENS = ["<bos>", "Ġthe", "été", ""]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.5, -1.0, 2.0, 0.0])
    writer.add_tensor("weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_reads_the_same_through_plain_arrays(path):
    usual = gguf.GGUFReader(path)
    with plain_arrays():
        plain = gguf.GGUFReader(path)
    assert not isinstance(plain.data, np.memmap)
    assert plain.fields["tokenizer.ggml.tokens"].contents() == TOKENS
    assert list(plain.fields) == list(usual.fields)
    for name, field in usual.fields.items():
        assert plain.fields[name].contents() == field.contents()
    (tensor,), (expected,) = plain.tensors, usual.tensors
    np.testing.assert_array_equal(tensor.data, expected.data)


def test_the_usual_reader_comes_back(path):
    usual = gguf.GGUFReader
    with pytest.raises(ValueError, match="broken"), plain_arrays():
        raise ValueError("broken")
    assert gguf.GGUFReader is usual


def test_without_gguf_nothing_happens(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with plain_arrays():
        pass
