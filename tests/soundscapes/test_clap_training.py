"""Training of a small CLAP: that it learns, resumes, repeats itself, and what it refuses."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers")

from dlink_adapter.integrations.transformers_clap import ClapEncoder  # noqa: E402
from dlink_adapter.soundscapes import clap_training  # noqa: E402
from dlink_adapter.soundscapes.clap_training import augment, contrastive_loss, train_small_clap  # noqa: E402
from dlink_adapter.soundscapes.small_clap import feature_extractor, log_mels  # noqa: E402
from dlink_adapter.training.config import TrainerConfig  # noqa: E402

RATE, SECONDS = 4_000, 1
PITCHES = {"a low hum": 200, "a middle tone": 600, "a high whistle": 1_500}
EXTRACTOR = feature_extractor(RATE, SECONDS)


def tones(count, seed=0):
    rng = np.random.default_rng(seed)
    captions = [list(PITCHES)[i % len(PITCHES)] for i in range(count)]
    time = np.arange(RATE * SECONDS) / RATE
    waves = [np.sin(2 * np.pi * PITCHES[caption] * rng.uniform(0.95, 1.05) * time) for caption in captions]
    noise = rng.normal(0, 0.01, (count, len(time)))
    return torch.from_numpy((np.stack(waves) * 0.3 + noise).astype(np.float32)), captions


def train(out, *, steps=6, seed=0, **options):
    waves, captions = tones(36)
    config = TrainerConfig(steps=steps, batch_size=6, lr=1e-3, seed=seed, **options.pop("settings", {}))
    mels = log_mels(waves, EXTRACTOR).half()
    groups = [[caption] for caption in captions]
    train_small_clap(mels, groups, EXTRACTOR, out, config=config, width=16, progress=False, **options)
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("demo") / "clap", steps=60, logit_scale=20.0)


def test_it_learns_what_it_hears(trained):
    encoder = ClapEncoder.from_pretrained(trained)
    waves, captions = tones(12, seed=1)
    audio, text = encoder.encode_audio(waves, sampling_rate=RATE), encoder.encode_text(list(PITCHES))
    heard = [list(PITCHES)[row] for row in (audio @ text.T).argmax(dim=1)]
    assert heard == captions


def test_the_folder_is_a_clap_like_any_other(trained):
    processor = transformers.AutoProcessor.from_pretrained(trained)
    model = transformers.ClapModel.from_pretrained(trained)
    assert load_file(trained / "model.safetensors")["text_projection.linear1.weight"].dtype == torch.float16
    waves, captions = tones(2)
    features = processor.feature_extractor(list(waves.numpy()), sampling_rate=RATE, return_tensors="pt")
    output = model.float()(**features, **processor.tokenizer(captions, padding=True, return_tensors="pt"))
    assert output.logits_per_audio.shape == (2, 2)
    assert model.logit_scale_a.exp().item() == pytest.approx(20, rel=1e-2)
    assert ClapEncoder.from_pretrained(trained).rate == RATE


def test_one_seed_one_model_and_the_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    folders = [train(tmp_path / "a", seed=1), train(tmp_path / "b", seed=1), train(tmp_path / "c", seed=2)]
    assert torch.equal(torch.rand(1), expected)
    same, again, other = (ClapEncoder.from_pretrained(folder).fingerprint for folder in folders)
    assert same == again != other


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    settings = {"save_every": 2, "log_every": 1}
    whole = train(tmp_path / "whole", settings=settings, checkpoints=tmp_path / "whole-checkpoints")
    loss, calls = clap_training.contrastive_loss, []

    def killed(logits):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return loss(logits)

    monkeypatch.setattr(clap_training, "contrastive_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "clap", settings=settings, checkpoints=tmp_path / "checkpoints")
    assert not (tmp_path / "clap").exists()
    monkeypatch.undo()
    (tmp_path / "checkpoints" / "checkpoint-5").mkdir()  # as of a kill while it was saved
    resumed = train(tmp_path / "clap", settings=settings, checkpoints=tmp_path / "checkpoints")
    expected = load_file(whole / "model.safetensors")  # the statistics of the batch norm are among them
    torch.testing.assert_close(load_file(resumed / "model.safetensors"), expected, rtol=0, atol=0)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("checkpoints", "whole-checkpoints")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 6


def test_an_existing_folder_is_not_overwritten(trained):
    with pytest.raises(FileExistsError, match="remove it"):
        train(trained)


@pytest.mark.parametrize("captions", [[["a dog"]] * 2, [["a dog"], ["a dog"], []], ["a dog"] * 3])
def test_input_that_does_not_fit(tmp_path, captions):
    with pytest.raises(ValueError, match="expected mels"):
        train_small_clap(torch.zeros(3, 1, 501, 32), captions, EXTRACTOR, tmp_path / "clap", config=TrainerConfig())


def test_a_batch_is_not_divided(tmp_path):
    with pytest.raises(ValueError, match="divided into 2 parts"):
        train(tmp_path / "clap", settings={"gradient_accumulation": 2})


def test_contrastive_loss_in_closed_form():
    n, scale = 5, 3.0
    expected = -scale + np.log(np.exp(scale) + n - 1)
    assert contrastive_loss(scale * torch.eye(n)).item() == pytest.approx(expected, rel=1e-5)


def test_augmentation_keeps_shape_and_floor_and_is_mild():
    mels = torch.rand(8, 1, 501, 32, generator=torch.Generator().manual_seed(1)) * 60 - 70
    copy = mels.clone()
    augmented, again = (augment(mels, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(mels, copy) and torch.equal(augmented, again)
    assert augmented.shape == mels.shape
    assert augmented.min() >= clap_training.SILENCE_DB
    assert not torch.equal(augmented, mels)
    assert (augmented.mean(dim=(1, 2, 3)) - mels.mean(dim=(1, 2, 3))).abs().max() <= 7
