"""The child that tries llama.cpp: how its process ends is what counts.

python -m c2c_export.bench.llamacpp_trial
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pydantic import TypeAdapter

from c2c_runtime.machine.json_child import ChildModule, serve
from c2c_runtime.progress import OnProgress


@dataclass(frozen=True)
class Trial:
    """The GGUF file to try."""

    gguf_file: str


TRIAL: ChildModule[Trial, None] = ChildModule(
    "c2c_export.bench.llamacpp_trial", TypeAdapter(Trial), TypeAdapter(None)
)


def generate_one_token(trial: Trial, on_progress: OnProgress) -> None:
    """Load the file and compute once."""
    import llama_cpp

    model = llama_cpp.Llama(trial.gguf_file, n_ctx=16, verbose=False)
    next(model.generate([1, 2, 3], temp=0.0, top_k=1))


if __name__ == "__main__":
    sys.exit(serve(TRIAL, generate_one_token))
