"""Downloads from the Hugging Face hub: few files, short timeouts, and a message that helps offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from c2c_export.system_errors import error_from_system
from c2c_runtime.errors import PairError, UnavailableError

_TIMEOUT_S = 10.0  # for the hub's answer to the first question; HF_HUB_OFFLINE asks nothing

# What a language model needs: weights, configs, tokenizer and chat template.
MODEL_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt")


def download(
    repository: str, patterns: Sequence[str], remedy: str, *, top_level_only: bool = False
) -> Path:
    """The local folder of a hub repository's files that match ``patterns``.

    Files that are in the hub's cache are not downloaded again, and HF_HUB_OFFLINE is honoured.
    Raises PairError with ``remedy``, which says what to give instead.
    """
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"] if top_level_only else None,
                etag_timeout=_TIMEOUT_S,
            )
        )
    except GatedRepoError as error:
        cause = f"{repository} is gated: its licence has to be accepted on the hub first"
        remedy = f"accept it on https://huggingface.co/{repository} and log in, or {remedy}"
        raise _unreachable(cause, remedy) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _unreachable(f"the hub has no repository {repository}", remedy) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        cause = f"{repository} is not in the hub's cache, and the hub is offline or out of reach"
        raise _unreachable(cause, remedy) from error
    except (HfHubHTTPError, OSError) as error:
        here = error_from_system(error)
        if isinstance(here, UnavailableError):  # this machine's fault, and no other source helps
            raise here from error
        cause = f"{repository} could not be downloaded: {_first_line(error)}"
        raise _unreachable(cause, remedy) from error


def _unreachable(cause: str, remedy: str) -> PairError:
    return PairError.of(cause, remedy)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
