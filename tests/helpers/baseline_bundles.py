"""A tiny pair whose Sharer can speak, and transformers' answers to hold it to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bundles import TEMPLATE, build, made_once, text_pair
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from c2c_runtime.answers.generation import GenerationOptions, Mode
from c2c_runtime.text.text_to_text import TextToText

SPEAKER = "graphs/ort/sharer1_speaker.onnx"
SHARER_EOS = [7, 9, 1]  # two of its config, and its tokenizer's <eos>
PROMPT = "The capital of France is"


def baseline_bundle(factory: pytest.TempPathFactory) -> Path:
    """``bundle/`` with baselines and ``plain/`` without, of ``pair/``, whose Sharer has EOS ids of its own."""

    def make(directory: Path) -> None:
        paths = text_pair(directory / "pair")
        config = json.loads((paths["sharer"] / "config.json").read_text())
        (paths["sharer"] / "config.json").write_text(
            json.dumps(config | {"eos_token_id": SHARER_EOS[:2]})
        )
        (paths["sharer"] / "generation_config.json").unlink()
        sizes = {"max_seq_len": 320, "max_prompt_len": 16}
        build(paths, directory / "bundle", with_baselines=True, **sizes)
        build(paths, directory / "plain", **sizes)

    return made_once(factory, "modes", make)


@dataclass(frozen=True)
class Eager:
    """A model alone, in transformers."""

    model: Any
    tokenizer: Any
    eos_ids: list[int]

    @classmethod
    def load(cls, path: Path, eos_ids: list[int], template: str = TEMPLATE) -> Eager:
        """The checkpoint at ``path``, with a chat template."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
        tokenizer.chat_template = template
        return cls(AutoModelForCausalLM.from_pretrained(path).eval(), tokenizer, eos_ids)

    def ids(self, prompt: Any) -> list[int]:
        """Of a plain prompt or a chat."""
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        text = self.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, prompt: Any, num_tokens: int) -> list[int]:
        """Greedy ids, an EOS id at the end included."""
        ids = torch.tensor([self.ids(prompt)])
        with torch.no_grad():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=num_tokens,
                eos_token_id=self.eos_ids, pad_token_id=0,
            )  # fmt: skip
        return list(out[0, ids.shape[1] :].tolist())

    def text(self, ids: Any) -> str:
        """Without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def options(mode: Mode, num_tokens: int = 24, **text_to_text: Any) -> GenerationOptions:
    """``text_to_text``: fields of ``TextToText``."""
    return GenerationOptions(
        max_new_tokens=num_tokens, mode=mode, text_to_text=TextToText(**text_to_text)
    )
