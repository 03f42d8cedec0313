"""Training a captioner, on captions alone and on audio: it learns, and touches nothing else."""

import os
import random

import pytest
import torch

from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.training import CaptionRows, train_captioner
from dlink_adapter.integrations.causal_lm import new_captioner
from dlink_adapter.training.config import TrainerConfig

FEW = TrainerConfig(steps=1, batch_size=12, lr=5e-3)


@pytest.fixture
def captioner(llama, link):
    torch.manual_seed(0)
    return new_captioner(link, CaptionerConfig(str(llama), hidden=64, prefix_tokens=2, tuning="lora"))


@pytest.fixture
def x(captions):
    return torch.randn(len(captions), 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("conditions", [("text",), ("audio",), ("text", "audio")])
def test_the_loss_falls(captioner, captions, x, conditions):
    rows = {name: x for name in conditions}
    first = train_captioner(captioner, captions, **rows, config=FEW, progress=False)
    train_captioner(captioner, captions, **rows, config=TrainerConfig(steps=20, batch_size=12, lr=5e-3), progress=False)
    last = train_captioner(captioner, captions, **rows, config=FEW, progress=False)
    assert last < first - 0.15


def test_it_hears_what_it_was_taught(captioner, x):
    """Two clips, two captions: with the whole model frozen but its LoRA, the embedding alone tells them apart."""
    captions = ["a dog is heard nearby", "a bell gets louder far away"]
    config = TrainerConfig(steps=60, batch_size=2, lr=1e-2)
    train_captioner(captioner, captions, audio=x[:2], config=config, progress=False)
    assert captioner.generate(x[:2], max_new_tokens=12) == captions


def test_bridge_and_base_model_stay_as_they_are(captioner, captions, x):
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    train_captioner(captioner, captions, text=x, config=TrainerConfig(steps=3), progress=False)
    changed = {name for name, value in captioner.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, value in captioner.named_parameters() if value.requires_grad}
    assert changed <= trained and {"projector.0.weight", "projector.2.weight"} <= changed
    assert any("lora_B" in name for name in changed)


def test_the_same_seed_gives_the_same_captioner_and_the_random_state_is_kept(llama, link, captions, x):
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=64))
        before = torch.get_rng_state(), random.getstate()
        train_captioner(captioner, captions, text=x, config=TrainerConfig(steps=2), progress=False)
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        weights.append(captioner.projector[2].weight)
    assert torch.equal(*weights)


def test_it_leaves_no_files_behind(captioner, captions, x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_captioner(captioner, captions, text=x, config=FEW, progress=False)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("settings", [{"tuning": "full"}, {"tuning": "lora"}, {"tuning": "lora", "quantize": "nf4"}])
def test_a_run_goes_on_from_its_checkpoint(llama, link, captions, x, tmp_path, settings):
    def run(out, stop=None):
        torch.manual_seed(0)
        captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=64, **settings))
        calls = []

        def interrupt(*_):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt

        captioner.projector.register_forward_hook(interrupt)
        config = TrainerConfig(steps=6, batch_size=12, save_every=2)
        train_captioner(captioner, captions, text=x, config=config, out=out, progress=False)
        return captioner, len(calls)

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=6)
    resumed, steps = run(tmp_path / "killed")
    assert steps == 2
    for name, value in whole.named_parameters():
        assert torch.equal(value, resumed.get_parameter(name)), name


def test_what_does_not_fit(captioner, captions, x):
    with pytest.raises(ValueError, match=r"give text= .*, audio= .*, or both"):
        train_captioner(captioner, captions, progress=False)
    with pytest.raises(ValueError, match=f"10 embeddings and {len(captions)} captions do not match"):
        train_captioner(captioner, captions, text=x[:10], progress=False)
    with pytest.raises(ValueError, match="validation keeps the best checkpoint: give out= and save_every"):
        train_captioner(captioner, captions, text=x, val=CaptionRows(captions, text=x), progress=False)
    with pytest.raises(ValueError, match="batch_size is 10: it must be a multiple of its 3 parts"):
        config = TrainerConfig(steps=1, batch_size=10, gradient_accumulation=3)
        train_captioner(captioner, captions, text=x, config=config, progress=False)
