"""The small LLaMA: the Auto classes load its folder, and training lowers the loss on its captions."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from dlink_adapter.soundscapes.small_llama import train_small_llama
from dlink_adapter.training.config import TrainerConfig


def loss(folder, captions):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer([f"<s>{caption}</s>" for caption in captions], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return model(**batch, labels=labels).loss.item()


def test_the_auto_classes_load_it(llama, captions):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)
    assert isinstance(model, LlamaForCausalLM) and model.config.vocab_size == len(tokenizer) > 256
    assert model.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    ids = tokenizer(captions)["input_ids"]
    assert tokenizer.batch_decode(ids) == captions
    assert max(map(len, ids)) < 15  # words, not bytes
    unseen = "Ein Käuzchen ruft!"
    assert tokenizer.decode(tokenizer(unseen)["input_ids"]) == unseen
    assert not [path.name for path in llama.parent.iterdir() if path != llama]


def test_it_learns_the_captions(llama, captions, tmp_path):
    config = TrainerConfig(steps=40, batch_size=16, lr=5e-3)
    train_small_llama(captions, tmp_path / "llama", config=config, hidden_size=64, layers=2, progress=False)
    assert loss(tmp_path / "llama", captions) < loss(llama, captions) - 1


def test_one_seed_one_model_and_the_callers_random_state_is_left_alone(captions, llama, tmp_path):
    torch.manual_seed(9)
    before = torch.get_rng_state()
    for name, seed in (("one", 0), ("other", 1)):
        config = TrainerConfig(steps=2, batch_size=16, lr=3e-3, seed=seed)
        train_small_llama(captions, tmp_path / name, config=config, hidden_size=64, layers=2, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    files = [folder / "model.safetensors" for folder in (llama, tmp_path / "one", tmp_path / "other")]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_a_width_that_cannot_be_quantised(captions, tmp_path):
    with pytest.raises(ValueError, match="hidden_size is 96: take a multiple of 64"):
        train_small_llama(captions, tmp_path / "llama", config=TrainerConfig(steps=1), hidden_size=96)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(captions, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="remove it to write it again"):
        train_small_llama(captions, tmp_path, config=TrainerConfig(steps=1), hidden_size=64, progress=False)
