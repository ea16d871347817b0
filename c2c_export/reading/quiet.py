"""transformers without its progress bars and warnings: what matters is raised."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from transformers.utils import logging as transformers_logging

from c2c_export.reading.gguf_reading import plain_arrays
from c2c_export.reading.model_source import ModelSource


@contextlib.contextmanager
def quiet(source: ModelSource) -> Iterator[None]:
    """No progress bars and no warnings while this lasts. GGUF files are read through plain arrays."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if source.gguf_file is not None:  # its loader draws a bar that no setting turns off
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            stack.enter_context(plain_arrays())
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            if had_bars:
                transformers_logging.enable_progress_bar()
