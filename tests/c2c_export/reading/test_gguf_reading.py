from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest
import torch

from c2c_export.pair import demo
from c2c_export.reading import weight_headers
from c2c_export.reading.checkpoints import load_model, read_config
from c2c_export.reading.gguf_reading import plain_arrays
from c2c_export.reading.model_source import resolve_model
from c2c_export.reading.weight_headers import gguf_headers
from c2c_runtime.errors import UnavailableError

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


def test_a_header_is_read_once_until_the_file_changes(path, monkeypatch):
    read, num_read = weight_headers.read_gguf_header, 0

    def counting(path):
        nonlocal num_read
        num_read += 1
        return read(path)

    monkeypatch.setattr(weight_headers, "read_gguf_header", counting)
    found = gguf_headers(path)
    assert found["weight"].shape == (3, 4)
    found.clear()  # a caller's own
    assert list(gguf_headers(path)) == ["weight"]
    assert num_read == 1
    path.write_bytes(path.read_bytes() + b"more")
    gguf_headers(path)
    assert num_read == 2


@pytest.mark.real
def test_the_weights_are_loaded_without_reading_the_config_again(monkeypatch):
    try:
        source = resolve_model(str(demo.smollm2_gguf()))
    except UnavailableError as error:
        pytest.skip(str(error))
    config = read_config(source)
    num_read, reader = 0, gguf.GGUFReader

    class Counting(reader):
        def __init__(self, *args, **options):
            nonlocal num_read
            num_read += 1
            super().__init__(*args, **options)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    model = load_model(source)
    assert num_read == 1
    assert model.config.num_hidden_layers == config.num_hidden_layers
    assert model.config._attn_implementation == "eager"
    assert model.dtype == torch.float32
    assert read_config(source).to_dict() == config.to_dict()  # loading changed a copy
