import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from dlink_adapter.integrations.transformers_clap import ClapEncoder  # noqa: E402
from dlink_adapter.soundscapes import small_clap  # noqa: E402
from dlink_adapter.soundscapes.small_clap import augment, contrastive_loss, train_small_clap  # noqa: E402

RATE, SECONDS = 4_000, 1
PITCHES = {"a low hum": 200, "a middle tone": 600, "a high whistle": 1_500}


def tones(count, seed=0):
    rng = np.random.default_rng(seed)
    captions = [list(PITCHES)[i % len(PITCHES)] for i in range(count)]
    time = np.arange(RATE * SECONDS) / RATE
    waves = [np.sin(2 * np.pi * PITCHES[caption] * rng.uniform(0.95, 1.05) * time) for caption in captions]
    noise = rng.normal(0, 0.01, (count, len(time)))
    return torch.from_numpy((np.stack(waves) * 0.3 + noise).astype(np.float32)), captions


def train(out, **options):
    waves, captions = tones(36)
    train_small_clap(waves, captions, out, rate=RATE, batch_size=6, progress=False, **{"epochs": 1, **options})
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("demo") / "clap", epochs=8)


def test_it_learns_what_it_hears(trained):
    encoder = ClapEncoder.from_pretrained(trained)
    waves, captions = tones(12, seed=1)
    audio, text = encoder.encode_audio(list(waves.numpy())), encoder.encode_text(list(PITCHES))
    heard = [list(PITCHES)[row] for row in (audio @ text.T).argmax(dim=1)]
    assert heard == captions


def test_the_folder_is_a_clap_like_any_other(trained):
    processor = transformers.AutoProcessor.from_pretrained(trained)
    model = transformers.ClapModel.from_pretrained(trained)
    waves, captions = tones(2)
    features = processor.feature_extractor(list(waves.numpy()), sampling_rate=RATE, return_tensors="pt")
    output = model(**features, **processor.tokenizer(captions, padding=True, return_tensors="pt"))
    assert output.logits_per_audio.shape == (2, 2)
    assert ClapEncoder.from_pretrained(trained).rate == RATE


def test_training_sees_the_features_the_encoder_computes(trained):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(trained)
    waves, _ = tones(3)
    expected = extractor(list(waves.numpy()), sampling_rate=RATE, return_tensors="pt")["input_features"]
    torch.testing.assert_close(small_clap._log_mels(waves, extractor, False), expected, atol=1e-4, rtol=0)


def test_one_seed_one_model_and_the_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    folders = [train(tmp_path / "a", seed=1), train(tmp_path / "b", seed=1), train(tmp_path / "c", seed=2)]
    assert torch.equal(torch.rand(1), expected)
    same, again, other = (ClapEncoder.from_pretrained(folder).fingerprint for folder in folders)
    assert same == again != other


def test_an_existing_folder_is_not_overwritten(trained):
    with pytest.raises(FileExistsError, match="remove it"):
        train(trained)


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / ".clap.partial").mkdir()
    (tmp_path / ".clap.partial" / "model.safetensors").touch()
    train(tmp_path / "clap")
    assert [path.name for path in tmp_path.iterdir()] == ["clap"]


def test_nothing_is_left_of_a_training_that_failed(tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(small_clap, "_fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "clap")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("samples", "captions"), [(RATE, 2), (RATE + 1, 3), (RATE // 2, 3)])
def test_input_that_does_not_fit(tmp_path, samples, captions):
    with pytest.raises(ValueError, match="expected"):
        train_small_clap(torch.zeros(3, samples), ["a dog"] * captions, tmp_path / "clap", rate=RATE)


def test_contrastive_loss_in_closed_form():
    n, scale = 5, 3.0
    expected = -scale + np.log(np.exp(scale) + n - 1)
    assert contrastive_loss(scale * torch.eye(n), scale * torch.eye(n)).item() == pytest.approx(expected, rel=1e-5)


def test_augmentation_keeps_shape_and_floor_and_is_mild():
    torch.manual_seed(0)
    mels = torch.rand(8, 1, 501, 32) * 60 - 70
    copy = mels.clone()
    augmented = augment(mels)
    assert torch.equal(mels, copy)
    assert augmented.shape == mels.shape
    assert augmented.min() >= small_clap.SILENCE_DB
    assert not torch.equal(augmented, mels)
    assert (augmented.mean(dim=(1, 2, 3)) - mels.mean(dim=(1, 2, 3))).abs().max() <= small_clap.GAIN_DB + 0.1
