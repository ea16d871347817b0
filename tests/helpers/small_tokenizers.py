"""Small tokenizers of the kinds that language models use, trained in a moment.

Each comes as transformers' fast tokenizer, which is the yardstick of the tests.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from c2c_export.reading.tokenizers import export_tokenizer
from c2c_runtime.text.tokenizer import Tokenizer

SENTENCES = (
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "What is the answer? The answer is: forty-two!",
    "user assistant system model hello there, name three colours",
    "def square(x):\n    return x ** 2  # the square\n",
    "naïve café über straße 北京 東京 🚀 русский текст",
) * 4

TEXTS = (
    "",
    "a",
    " ",
    "The capital of France is Paris.",
    "  leading and   repeated   spaces\t\ttabs and trailing  ",
    "北京是中国的首都。🚀 naïve — “quotes” 👩‍👩‍👧 e\u0301",
    "line\r\nline\n\n\nend\n",
    "<|im_start|>user\nhello<|im_end|>\n<tool> <bos>x<eos>",
    "\x00\x7f\ufffd literal replacement",
    "1,000,000 3.14159 x**2",
)


@lru_cache
def byte_level() -> PreTrainedTokenizerFast:
    """Like SmolLM2 and Qwen: byte-level BPE, ChatML tokens, pad is EOS, no BOS added."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    tokenizer.add_tokens(["<tool>"])
    return tokenizer


@lru_cache
def byte_fallback(strips_first_space: bool = True) -> PreTrainedTokenizerFast:
    """Like Llama 2 (``strips_first_space``) and Gemma: BPE over ``▁``, bytes as tokens, BOS."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"], show_progress=False
    )
    latin = [sentence for sentence in SENTENCES if sentence.isascii()]
    backend.train_from_iterator(latin, trainer)
    content = json.loads(backend.to_str())
    vocab = content["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    content["model"]["byte_fallback"] = True
    backend = Backend.from_str(json.dumps(content))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strips_first_space:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
    )


@lru_cache
def unigram() -> PreTrainedTokenizerFast:
    """Like T5 and XLM-R: unigram with Metaspace, no bytes, unknown characters, no pad token."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    latin = [sentence for sentence in SENTENCES if sentence.isascii()]
    backend.train_from_iterator(latin, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


KINDS = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "byte_fallback_unstripped": lambda: byte_fallback(strips_first_space=False),
    "unigram": unigram,
}


def exported(
    tokenizer: PreTrainedTokenizerFast, directory: Path, template: str | None = None
) -> Tokenizer:
    """The tokenizer as a bundle holds it, with ``template`` as its chat template."""
    return Tokenizer.load(
        directory, export_tokenizer(tokenizer, directory, "tokenizers/x", template)
    )
