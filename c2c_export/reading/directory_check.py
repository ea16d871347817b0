"""What lies in a checkpoint's directory and says that the weights there are not the model that is meant."""

from __future__ import annotations

from pathlib import Path

from c2c_runtime.errors import Problem

_ADAPTER = "adapter_config.json"


def check_directory(directory: Path) -> list[Problem]:
    """An adapter that would be left out without a word."""
    if not (directory / _ADAPTER).is_file():
        return []
    merge = (
        "merge it into its model (peft: AutoPeftModelForCausalLM.from_pretrained(DIR)"
        ".merge_and_unload().save_pretrained(NEW_DIR)) and give that"
    )
    if not (directory / "config.json").exists():
        cause = f"{directory} holds an adapter (LoRA, {_ADAPTER}), not a whole model"
        return [Problem(cause, merge)]
    return [
        Problem(
            f"{directory} holds an adapter ({_ADAPTER}) beside a model, and it is not said which is meant",
            f"{merge}; or remove {_ADAPTER} for the model without it",
        )
    ]
