"""Models of open_clip: a tiny one of its real classes, compared with what the package gives for the same input."""

import importlib.util
import json
import pickle
import shutil

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")

from dlink_adapter.extract.encoders import ImageEncoder, load_encoder  # noqa: E402

CAPTIONS = ["a photo of a dog", "rain", "a red bell on a table"]
CONFIG = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_the_package_the_extra_is_named():
    with pytest.raises(ImportError, match=r'pip install "dlink-adapter\[open-clip\]"'):
        load_encoder("open_clip", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models") / "open_clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder("open_clip", str(folder), batch_size=2)


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=-1)


def test_embeddings_are_what_the_package_gives(encoder, folder, tmp_path):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 255, (40, 50 + 9 * i, 3), dtype=np.uint8)) for i in range(3)]
    with torch.no_grad():
        expected = unit(model.eval().encode_image(torch.stack([transform(image) for image in images])))
        of_text = unit(model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)))
    torch.testing.assert_close(encoder.encode_image(images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_text(CAPTIONS), of_text, atol=1e-5, rtol=0)
    images[0].save(tmp_path / "a.png")
    load = pickle.loads(pickle.dumps(encoder.load))
    torch.testing.assert_close(encoder.encode_image([load(tmp_path / "a.png")]), expected[:1], atol=1e-5, rtol=0)


def test_what_it_is(encoder, folder, tmp_path):
    assert isinstance(encoder, ImageEncoder) and encoder.dim == 24 and not encoder.model.training
    assert encoder.describe() == {"id": str(folder), "revision": None, "fingerprint": encoder.fingerprint}
    copy = shutil.copytree(folder, tmp_path / "copy")
    changed = {**CONFIG, "preprocess_cfg": {"mean": [0.1, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (copy / "open_clip_config.json").write_text(json.dumps(changed))
    assert load_encoder("open_clip", str(copy)).fingerprint != encoder.fingerprint
    (copy / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"copy has no open_clip_model\.safetensors"):
        load_encoder("open_clip", str(copy))
