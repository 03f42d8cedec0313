"""Settings of trainings: what decides their length, and what cannot be."""

import pytest

from dlink_adapter.training.config import TrainerConfig


def test_steps_or_epochs():
    assert TrainerConfig().steps_over(50) == 1000
    assert TrainerConfig(steps=7).steps_over(50) == 7
    assert TrainerConfig(epochs=3, batch_size=20).steps_over(50) == 7
    assert TrainerConfig(epochs=0.5, batch_size=64).steps_over(50) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "epochs": 2}, "steps is 3 and epochs 2: give one of them, the other as null"),
        ({"epochs": 0}, "epochs is 0: it must be above 0"),
        ({"steps": 0}, "must be at least 1"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16 are both set"),
        ({"projector_lr": 0.1, "deepspeed": "zero3.json"}, "knows no projector_lr: leave one of them out"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**settings)
