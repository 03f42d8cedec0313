"""The shape, the front end and the tokenizer of a small CLAP, and the trained one that ships."""

import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from dlink_adapter.extract.encoders import load_encoder  # noqa: E402
from dlink_adapter.integrations.transformers_clap import ClapEncoder  # noqa: E402
from dlink_adapter.soundscapes import EVENTS, render, sample_scenes  # noqa: E402
from dlink_adapter.soundscapes.small_clap import feature_extractor, log_mels, render_mels  # noqa: E402
from dlink_adapter.soundscapes.world import World  # noqa: E402

FOLDER = ClapEncoder.shipped["small"]


@pytest.fixture(scope="module")
def shipped():
    return load_encoder("clap", "small")


def test_training_sees_the_features_the_encoder_computes():
    extractor = feature_extractor(rate=4_000, seconds=1)
    waves = torch.randn(3, 4_000, generator=torch.Generator().manual_seed(0)) / 10
    expected = extractor(list(waves.numpy()), sampling_rate=4_000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(log_mels(waves, extractor), expected, atol=1e-4, rtol=0)


def test_rendered_features_are_those_of_the_rendered_scenes():
    scenes, extractor = sample_scenes(3, "train", 0), feature_extractor()
    mels = render_mels(scenes, extractor, progress=False)
    waves = torch.stack([torch.from_numpy(render(scene)) for scene in scenes])
    assert mels.dtype == torch.float16 and mels.shape == (3, 1, 501, 32)
    torch.testing.assert_close(mels.float(), log_mels(waves, extractor), atol=0.05, rtol=0)


def test_the_shipped_one_is_a_clap_like_any_other_and_small():
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    model = transformers.ClapModel.from_pretrained(FOLDER)
    waves = [render(scene) for scene in sample_scenes(2, "test", 0)]
    features = processor.feature_extractor(waves, sampling_rate=16_000, return_tensors="pt")
    tokens = processor.tokenizer(["A dog barks", "Rain falls"], padding=True, return_tensors="pt")
    assert model.float()(**features, **tokens).logits_per_audio.shape == (2, 2)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8e6


def test_the_shipped_one_hears_what_its_card_says(shipped):
    """On a tenth of the test scenes of the card, so within .06."""
    scenes = World(1_000_003, {"test": 100})
    said = json.loads((FOLDER / "scores.json").read_text())["scores"]
    captions = scenes.captions("test")
    audio = shipped.encode_audio([render(scene) for scene in scenes.scenes("test")], sampling_rate=16_000)
    text = shipped.encode_text([group[0] for group in captions])
    assert (audio * text).sum(dim=1).mean().item() == pytest.approx(said["paired_cosine"], abs=0.06)
    assert (audio.mean(dim=0) - text.mean(dim=0)).norm().item() == pytest.approx(said["centroid_distance"], abs=0.06)


def test_the_shipped_one_tells_single_kinds_apart(shipped):
    alone = [scene for scene in World(7, {"test": 300}).scenes("test") if scene.relation == "alone"]
    kinds = sorted({scene.events[0].event for scene in alone})
    prompts = [f"{EVENTS[kind].phrases[0].subject} {EVENTS[kind].phrases[0].verb}" for kind in kinds]
    audio = shipped.encode_audio([render(scene) for scene in alone], sampling_rate=16_000)
    heard = (audio @ shipped.encode_text(prompts).T).argmax(dim=1)
    right = [kinds[row] == scene.events[0].event for row, scene in zip(heard, alone, strict=True)]
    assert sum(right) / len(right) > 0.75


def test_small_is_the_id_and_has_no_revisions(shipped):
    assert shipped.id == "small" and shipped.describe()["id"] == "small"
    with pytest.raises(ValueError, match="revision is 'main': 'small' comes with the package"):
        load_encoder("clap", "small", revision="main")


def test_a_folder_of_that_name_is_given_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("small"), "./small"):
        with pytest.raises(OSError):
            load_encoder("clap", path)
