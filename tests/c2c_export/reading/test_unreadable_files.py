"""Files of a checkpoint that this machine does not open: whose fault it is, and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import huggingface_hub
import pytest
from tiny_models import tiny_model

from c2c_export.reading import hub
from c2c_export.reading.checkpoints import model_dims, read_config
from c2c_export.reading.model_source import resolve_model
from c2c_export.reading.tokenizers import load_tokenizer
from c2c_runtime.errors import PairError, UnavailableError


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "model", "llama", layers=1)


def read(path):
    source = resolve_model(str(path))
    return model_dims(read_config(source), source)


def refuse(monkeypatch, name: str, number: int) -> None:
    """Let the operating system open every file but those of this name."""
    opened = Path.open

    def fails(path, *args, **options):
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", fails)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_to_nothing_is_named(model, tmp_path, name):
    """As in a hub cache whose blobs were cleared."""
    (model / name).unlink()
    (model / name).symlink_to(tmp_path / "blob")
    with pytest.raises(PairError) as caught:
        read(model)
    assert f"{name} is a link to {tmp_path / 'blob'}, which is missing" in str(caught.value)


def test_a_gguf_link_to_nothing_is_named(tmp_path):
    (tmp_path / "m.gguf").symlink_to(tmp_path / "blob")
    with pytest.raises(PairError, match="is a link to"):
        resolve_model(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "m.gguf"])
@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.EACCES, PairError, "that this user may read it"),
        (errno.EMFILE, UnavailableError, "ulimit -n"),
    ],
)
def test_a_file_that_is_not_opened(model, monkeypatch, name, number, error, words):
    (model / "m.gguf").write_bytes(b"GGUF")
    refuse(monkeypatch, name, number)
    with pytest.raises(error) as caught:
        read(model / name if name == "m.gguf" else model)
    assert str(model / name) in str(caught.value)
    assert words in str(caught.value)
    assert "download it again" not in str(caught.value)


def test_a_tokenizer_that_too_many_open_files_keep_away(model, monkeypatch):
    (model / "tokenizer.json").write_text("{}")

    def fails(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files", str(model / "tokenizer.json"))

    monkeypatch.setattr("c2c_export.reading.tokenizers.AutoTokenizer.from_pretrained", fails)
    with pytest.raises(UnavailableError, match="too many files"):
        load_tokenizer(model)


def test_a_disk_that_a_download_fills(monkeypatch, tmp_path):
    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "blob"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(UnavailableError, match="is full"):
        hub.download("org/model", ["*"], "give a folder")
