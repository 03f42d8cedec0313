"""A small LLaMA pre-trained on captions: a real `LlamaForCausalLM` where no checkpoint can be downloaded.

It is trained on text only, never on audio. Needs `pip install "dlink-adapter[llm]"`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dlink_adapter.files import appearing_folder
from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.trainer import run_trainer

VOCABULARY = 800
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")


def train_small_llama(
    captions: Sequence[str],
    out: str | Path,
    *,
    config: TrainerConfig,
    hidden_size: int = 128,
    layers: int = 4,
    progress: bool = True,
) -> None:
    """Pre-trains a small LLaMA with `transformers.Trainer` and saves it as a folder that the Auto classes load.

    Args:
        captions: training text.
        out: folder to create; an existing one must be empty.
        config: training settings; its seed also seeds the initial weights.
        hidden_size: a multiple of 64, as bitsandbytes requires.
        layers: number of transformer layers.
        progress: shows a progress bar on a terminal.

    Raises:
        ValueError: `hidden_size` is not a multiple of 64.
        FileExistsError: `out` exists and is not empty.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if hidden_size % 64:
        raise ValueError(f"hidden_size is {hidden_size}: take a multiple of 64, so that bitsandbytes can quantise it")
    tokenizer = _train_tokenizer(captions)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        llama = LlamaForCausalLM(shape)
    with appearing_folder(out) as folder:
        rows = [{"text": caption} for caption in captions]
        run_trainer(llama, rows, _Collator(tokenizer), config, progress=progress)
        llama.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


class _Collator:
    """Collates captions as [BOS] caption [EOS], right-padded; the labels of the padding are -100."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, str]]) -> dict[str, Any]:
        texts = [f"{self.tokenizer.bos_token}{row['text']}{self.tokenizer.eos_token}" for row in rows]
        batch: dict[str, Any] = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch


def _train_tokenizer(captions: Sequence[str]) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        captions, vocab_size=VOCABULARY, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, padding_side="right"
    )
