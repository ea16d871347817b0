"""What lies in a checkpoint's directory and says that the weights there are not the model that is meant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from c2c_runtime.errors import Problem

# What quantisers write beside or instead of a weight: GPTQ and AWQ, compressed-tensors and fp8,
# bitsandbytes.
_QUANTISED = (
    *(".qweight", ".qzeros", ".g_idx"),
    *(".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_zero_point"),
    *(".weight.absmax", ".weight.quant_map", ".SCB"),
)
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


def check_names(directory: Path, names: Iterable[str]) -> list[Problem]:
    """Weights, by their names, that are quantised although the config does not say so."""
    found = next((name for name in sorted(names) if name.endswith(_QUANTISED)), None)
    if found is None:
        return []
    return [
        Problem(
            f"the weights in {directory} are quantised (one is {found})",
            "give the unquantised checkpoint and ask for --precision int8 or int4 instead",
        )
    ]
