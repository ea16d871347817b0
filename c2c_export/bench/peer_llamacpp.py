"""A peer: the Receiver in llama.cpp, where its checkpoint is a GGUF file."""

from __future__ import annotations

import time
from collections.abc import Sequence

from c2c_export.bench.contender import MeasuredMode, Run
from c2c_export.bench.llamacpp_trial import TRIAL, Trial
from c2c_export.bench.peer import PeerSetup, import_peer
from c2c_export.reading.model_source import ModelSource
from c2c_runtime.errors import UnavailableError
from c2c_runtime.machine.json_child import ChildEndedError, Job, Wording, ask


class LlamaCpp:
    """``Contender``: the file as it is, through llama-cpp-python."""

    name = "llamacpp"
    mode: MeasuredMode = "receiver"
    is_peer = True

    def __init__(self, setup: PeerSetup) -> None:
        llama_cpp = import_peer("llama_cpp", "llama-cpp-python")
        receiver = setup.source.receiver
        if receiver.gguf_file is None:
            raise UnavailableError(
                f"llama.cpp reads GGUF files, and {receiver.name} is none",
                "give the Receiver as a GGUF file, or leave llamacpp out of --peers",
            )
        _check_in_a_process_of_its_own(receiver)
        self._model = llama_cpp.Llama(
            str(receiver),
            n_ctx=setup.max_seq_len,
            n_threads=setup.num_threads,
            n_threads_batch=setup.num_threads,
            verbose=False,
        )

    def run(self, ids: Sequence[int], num_new: int) -> Run:
        """One greedy answer from an empty cache."""
        self._model.reset()
        tokens = self._model.generate(list(ids), temp=0.0, top_k=1)
        started = time.perf_counter()
        token_ids = [next(tokens)]
        first_token_s = time.perf_counter() - started
        steps = []
        for _ in range(num_new - 1):
            started = time.perf_counter()
            token_ids.append(next(tokens))
            steps.append(time.perf_counter() - started)
        tokens.close()
        return Run(first_token_s, {}, tuple(steps), token_ids=tuple(token_ids))

    def close(self) -> None:
        """Free the model."""
        self._model.close()


def _check_in_a_process_of_its_own(receiver: ModelSource) -> None:
    """Raise ``UnavailableError`` if llama.cpp ends the process that runs it. Compiled for a processor
    whose AMX this machine does not allow, it does, and a measurement would end with it."""
    compile_it = (
        "compile it without what this machine lacks: CMAKE_ARGS='-DGGML_NATIVE=OFF -DGGML_AVX2=ON "
        "-DGGML_FMA=ON -DGGML_F16C=ON' pip install --force-reinstall --no-cache-dir llama-cpp-python"
    )
    try:
        ask(Job(TRIAL, Trial(str(receiver)), Wording("llama.cpp", if_crashed=compile_it)))
    except ChildEndedError as ended:
        if ended.is_crash:  # what Python raises there, it raises here too
            raise UnavailableError(
                f"llama.cpp ends its process with {ended.how}", compile_it
            ) from ended
