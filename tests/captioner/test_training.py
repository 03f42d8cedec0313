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


MORE = {"projector_lr": 1e-2, "gradient_checkpointing": True, "dataloader_num_workers": 1}


@pytest.mark.parametrize(
    ("settings", "training"),
    [
        ({"tuning": "full"}, {"steps": 6}),
        ({"tuning": "lora"}, {"steps": 6}),
        ({"tuning": "lora", "quantize": "nf4"}, {"steps": 6}),
        ({"tuning": "lora", "use_dora": True}, {"epochs": 1.5, **MORE}),
    ],
)
def test_a_run_goes_on_from_its_checkpoint(llama, link, captions, x, tmp_path, settings, training):
    def run(out, stop=None):
        torch.manual_seed(0)
        captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=64, **settings))
        calls = []

        def interrupt(*_):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt

        captioner.projector.register_forward_hook(interrupt)
        config = TrainerConfig(batch_size=12, save_every=2, **training)
        train_captioner(captioner, captions, text=x, config=config, out=out, progress=False)
        return captioner, len(calls)

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=6)
    resumed, steps = run(tmp_path / "killed")
    assert steps == 2
    for name, value in whole.named_parameters():
        assert torch.equal(value, resumed.get_parameter(name)), name


def saved_optimizer(out, steps):
    return torch.load(out / f"checkpoint-{steps}" / "optimizer.pt")


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
def test_the_projector_has_a_learning_rate_of_its_own(llama, link, captions, x, tmp_path, tuning):
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=64, tuning=tuning))
    config = TrainerConfig(steps=1, batch_size=12, lr=1e-3, projector_lr=1e-2, save_every=1)
    train_captioner(captioner, captions, text=x, config=config, out=tmp_path, progress=False)
    sizes = {}
    for group in saved_optimizer(tmp_path, 1)["param_groups"]:
        sizes[group["initial_lr"]] = sizes.get(group["initial_lr"], 0) + len(group["params"])
    trained = [name for name, value in captioner.named_parameters() if value.requires_grad]
    of_projector = sum(name.startswith("projector.") for name in trained)
    rest = len(trained) - of_projector
    assert sizes == {1e-2: of_projector} | ({1e-3: rest} if rest else {})


def test_another_optimiser(captioner, captions, x, tmp_path):
    config = TrainerConfig(steps=1, batch_size=12, optim="sgd", save_every=1)
    train_captioner(captioner, captions, text=x, config=config, out=tmp_path, progress=False)
    assert "momentum" in saved_optimizer(tmp_path, 1)["param_groups"][0]


def test_epochs_see_every_row_as_often(captioner, captions, x):
    seen = []
    captioner.projector.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    config = TrainerConfig(epochs=2, batch_size=12)
    train_captioner(captioner, captions, text=x, config=config, progress=False)
    assert seen == [12] * (2 * len(captions) // 12)


@pytest.mark.parametrize("settings", [{"tuning": "lora"}, {"tuning": "frozen"}, {"tuning": "lora", "quantize": "nf4"}])
def test_gradient_checkpointing_changes_no_weight(llama, link, captions, x, settings):
    weights, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=64, **settings))
        calls.clear()
        captioner.llm.get_decoder().layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        config = TrainerConfig(steps=2, batch_size=12, gradient_checkpointing=checkpointing)
        train_captioner(captioner, captions, text=x, config=config, progress=False)
        assert len(calls) == (4 if checkpointing else 2)
        weights.append({name: value for name, value in captioner.named_parameters() if value.requires_grad})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_the_log_goes_to_a_tracker_too(captioner, captions, x, monkeypatch):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    logged = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            logged.append(logs)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "ours", Tracker)
    config = TrainerConfig(steps=2, batch_size=12, log_every=1, report_to="ours")
    train_captioner(captioner, captions, text=x, config=config, progress=False)
    assert [round(line["loss"], 1) > 0 for line in logged if "loss" in line] == [True, True]


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
