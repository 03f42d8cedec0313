"""CLIP and SigLIP: tiny models of transformers' classes, compared with what transformers gives for the same input."""

import json
import shutil

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

from dlink_adapter.extract.encoders import ImageEncoder, UnreadableError, load_encoder  # noqa: E402
from dlink_adapter.integrations.transformers_clip import ClipEncoder  # noqa: E402

CAPTIONS = ["a photo of a dog", "rain", "a red bell on a table"]
VISION = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
)
TEXT = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12
)


def tokenizer(captions):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({word for caption in captions for word in caption.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    words_only = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    words_only.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words_only, **names)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("models") / request.param, tokenizer(CAPTIONS)
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if request.param == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
        model, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessor
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    else:
        config = transformers.SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=VISION)
        model, processor = transformers.SiglipModel(config), transformers.SiglipImageProcessor
        size = {"size": {"height": 32, "width": 32}}
    for part in (model, processor(**size), words):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return ClipEncoder.from_pretrained(folder, batch_size=2)


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (40, 50 + 10 * i, 3), dtype=np.uint8)) for i in range(5)]


def pooled(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=-1)


def test_images_are_what_the_model_makes_of_them(encoder, folder, images, tmp_path):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
    with torch.no_grad():
        expected = unit(pooled(model.get_image_features(**inputs)))
    torch.testing.assert_close(encoder.encode_image(images), expected, atol=1e-5, rtol=0)
    for number, image in enumerate(images):
        image.save(tmp_path / f"ein Bild {number}.png")
    paths = sorted(tmp_path.iterdir())
    torch.testing.assert_close(encoder.encode_image(paths), expected, atol=1e-5, rtol=0)
    assert torch.equal(encoder.encode_image(map(encoder.load, paths)), encoder.encode_image(paths))


def test_captions_are_what_the_model_makes_of_them(encoder, folder):
    model = transformers.AutoModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    siglip = model.config.model_type == "siglip"
    for caption, row in zip(CAPTIONS, encoder.encode_text(CAPTIONS), strict=True):
        tokens = words(caption, return_tensors="pt", **({"padding": "max_length", "max_length": 12} if siglip else {}))
        with torch.no_grad():
            expected = pooled(model.get_text_features(input_ids=tokens["input_ids"]))[0]
        torch.testing.assert_close(row, unit(expected), atol=1e-5, rtol=0)


def test_what_it_is(encoder, folder):
    assert isinstance(encoder, ImageEncoder)
    assert encoder.dim == encoder.encode_text(["rain"]).shape[1] and not encoder.model.training
    assert encoder.describe() == {
        "id": str(folder), "revision": None, "fingerprint": encoder.fingerprint, "pixels": 32,
    }  # fmt: skip
    assert load_encoder("clip", str(folder)).fingerprint == encoder.fingerprint
    assert encoder.encode_image([]).shape == (0, encoder.dim)
    assert encoder.encode_text([" ".join(["rain"] * 50)]).isfinite().all()


def test_the_fingerprint_sees_the_preprocessing(encoder, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    file = next(path for path in tmp_path.glob("copy/*processor*.json"))
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"image_mean": [0.1, 0.2, 0.3]}))
    assert ClipEncoder.from_pretrained(tmp_path / "copy").fingerprint != encoder.fingerprint


def test_arrays_are_images_of_uint8(encoder, images):
    torch.testing.assert_close(encoder.encode_image([np.asarray(images[0])]), encoder.encode_image([images[0]]))
    with pytest.raises(UnreadableError, match=r"image 1: expected uint8 \(height, width, 3\), got \(4, 4, 3\) float64"):
        encoder.encode_image([images[0], np.zeros((4, 4, 3))])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_modes(encoder, images, tmp_path, mode):
    kind = "tif" if mode in ("CMYK", "I;16") else "png"
    image = Image.new("I;16", (40, 40), 30_000) if mode == "I;16" else images[0].convert(mode)
    image.save(tmp_path / f"a.{kind}")
    assert encoder.encode_image([tmp_path / f"a.{kind}"]).isfinite().all()


def test_a_turned_photo_is_set_upright(encoder, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    images[1].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    torch.testing.assert_close(encoder.encode_image([tmp_path / "turned.png"]), encoder.encode_image([images[1]]))


def test_files_that_cannot_be_used(encoder, images, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    images[0].save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name, message in (("text.jpg", "not readable as"), ("cut.png", "not readable as"), ("no.png", "no such file")):
        with pytest.raises(UnreadableError, match=rf"{name}: {message}"):
            encoder.encode_image([tmp_path / name])


def test_another_model_is_refused(llama):
    with pytest.raises(ValueError, match="is a llama model: ClipEncoder takes clip and siglip"):
        ClipEncoder.from_pretrained(llama)
