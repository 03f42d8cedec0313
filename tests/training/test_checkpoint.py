"""Checkpoints: all of it comes back, and nothing that does not belong to the run."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from dlink_adapter.training.checkpoint import load_checkpoint, save_checkpoint


def parts(seed):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    average, optimizer = AveragedModel(model), AdamW(model.parameters())
    model(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()
    average.update_parameters(model)
    return model, average, optimizer


def test_weights_average_and_optimiser_come_back(tmp_path):
    saved, loaded = parts(0), parts(1)
    save_checkpoint(tmp_path / "checkpoint", "run", 7, *saved)
    assert load_checkpoint(tmp_path / "checkpoint", "run", *loaded) == 7
    for one, other in zip(saved, loaded, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_another_run_and_a_damaged_file_are_refused(tmp_path):
    path = tmp_path / "checkpoint"
    save_checkpoint(path, "run", 7, *parts(0))
    with pytest.raises(ValueError, match="of a run with other settings or pairs: remove it, or choose another folder"):
        load_checkpoint(path, "other", *parts(1))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="checkpoint is damaged, remove it to start again"):
        load_checkpoint(path, "run", *parts(1))


def test_what_a_killed_run_left_of_a_checkpoint_is_removed(tmp_path):
    (tmp_path / ".checkpoint-a1b2c3d4").touch()
    (tmp_path / ".checkpoint-2").touch()  # not ours
    save_checkpoint(tmp_path / "checkpoint", "run", 7, *parts(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-2", "checkpoint"]
