"""A peer: the Receiver in ONNX Runtime GenAI, as a graph that its own builder makes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from c2c_export.bench.contender import MeasuredMode, Run
from c2c_export.bench.peer import PeerSetup, import_peer
from c2c_export.bench.peer_eager import loaded_model
from c2c_export.pair.demo import cache_directory
from c2c_export.reading.checkpoints import read_config
from c2c_export.reading.model_source import ModelSource
from c2c_export.reading.tokenizers import load_tokenizer
from c2c_runtime.errors import UnavailableError

GenaiPrecision = Literal["fp32", "int4", "int4-mixed"]
# The block and accuracy level that MatMulNBits of a bundle has, too. By default 4 bits are everywhere;
# mixed is the builder's own choice of what keeps 8: the LM head, and attention and MLP of some layers.
_FOUR_BITS = ("block_size=32", "accuracy_level=4")
_OPTIONS: dict[GenaiPrecision, tuple[str, ...]] = {
    "fp32": (),
    "int4": _FOUR_BITS,
    "int4-mixed": (*_FOUR_BITS, "algo_config=k_quant_mixed"),
}
PRECISIONS: tuple[GenaiPrecision, ...] = tuple(_OPTIONS)


class GenAI:
    """``Contender``: one precision of the Receiver."""

    mode: MeasuredMode = "receiver"
    is_peer = True

    def __init__(self, setup: PeerSetup, precision: GenaiPrecision) -> None:
        self.name = f"genai-{precision}"
        self._og = import_peer("onnxruntime_genai", "onnxruntime-genai")
        directory = _built(setup.source.receiver, precision, self._og.__version__)
        config = self._og.Config(str(directory))
        threads = {"intra_op_num_threads": setup.num_threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = self._og.Model(config)
        self._max_seq_len = setup.max_seq_len

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One greedy answer."""
        params = self._og.GeneratorParams(self._model)
        length = len(ids) + num_new
        params.set_search_options(
            max_length=max(length, self._max_seq_len), min_length=length, do_sample=False
        )
        generator = self._og.Generator(self._model, params)
        started = time.perf_counter()
        generator.append_tokens(list(ids))
        generator.generate_next_token()
        token_ids = [int(generator.get_next_tokens()[0])]
        first_token_s = time.perf_counter() - started
        steps = []
        for _ in range(num_new - 1):
            started = time.perf_counter()
            generator.generate_next_token()
            token_ids.append(int(generator.get_next_tokens()[0]))
            steps.append(time.perf_counter() - started)
        return Run(first_token_s, {}, tuple(steps), token_ids=tuple(token_ids))

    def stepper(self) -> Callable[[int], np.ndarray]:
        """An empty conversation: the logits [vocab_size] after one more token, a call a token."""
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=self._max_seq_len, do_sample=False)
        generator = self._og.Generator(self._model, params)

        def step(token_id: int) -> np.ndarray:
            generator.append_tokens([token_id])
            logits: np.ndarray = generator.get_logits().reshape(-1)
            return logits

        return step

    def close(self) -> None:
        """Drop the model."""
        del self._model


def _built(source: ModelSource, precision: GenaiPrecision, version: str) -> Path:
    """The model directory that GenAI's builder makes of a checkpoint; made once and kept."""
    file = source.directory / (source.gguf_file or "config.json")
    facts = f"{file} {file.stat().st_mtime_ns} {precision} {_OPTIONS[precision]} {version}"
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    target = cache_directory() / "peers" / f"{source.name}-genai-{precision}-{digest}"
    if (target / "genai_config.json").is_file():
        return target
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint = partial / "checkpoint"
    _write_checkpoint(source, checkpoint)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(checkpoint), "-o", str(partial / "model")]
    command += ["-p", precision.removesuffix("-mixed"), "-e", "cpu"]
    command += ["-c", str(partial / "cache")]
    if _OPTIONS[precision]:
        command += ["--extra_options", *_OPTIONS[precision]]
    called = subprocess.run(command, capture_output=True, text=True, check=False)
    if called.returncode or not (partial / "model" / "genai_config.json").is_file():
        words = called.stderr.strip().splitlines() or ["it said nothing"]
        shutil.rmtree(partial, ignore_errors=True)
        raise UnavailableError(
            f"onnxruntime-genai's builder cannot make {precision} of {source.name}: {words[-1]}",
            "leave genai out of --peers",
        )
    (partial / "model").rename(target)
    shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_checkpoint(source: ModelSource, directory: Path) -> None:
    """A float32 checkpoint directory. A model that comes from GGUF refuses to be saved, so its weights
    go into a fresh one."""
    from transformers import AutoModelForCausalLM

    loaded = loaded_model(source)
    fresh = AutoModelForCausalLM.from_config(read_config(source))
    fresh.load_state_dict(loaded.state_dict())
    fresh.float().save_pretrained(directory)
    tokenizer = load_tokenizer(source.directory, source.gguf_file)
    if tokenizer is None:
        raise UnavailableError(
            f"onnxruntime-genai's builder needs a tokenizer, and {source.name} has none",
            "leave genai out of --peers",
        )
    tokenizer.save_pretrained(directory)
