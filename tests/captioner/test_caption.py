"""`Captioner.caption`: sounds in any form, in one call, through the captioner's own encoder."""

import numpy as np
import pytest
import torch

from dlink_adapter import Captioner, PairedEmbeddings
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.extract.encoders import UnreadableError
from dlink_adapter.integrations.causal_lm import new_captioner
from dlink_adapter.integrations.transformers_clap import ClapEncoder

soundfile = pytest.importorskip("soundfile")
RATE = 44_100


@pytest.fixture(scope="module")
def encoder():
    return ClapEncoder.from_pretrained("small")


@pytest.fixture
def folder(llama, make_link, encoder, tmp_path):
    torch.manual_seed(0)
    link = make_link(dim=encoder.dim)
    link.metadata["fingerprint"] = encoder.fingerprint
    settings = {"hidden": 32, "tuning": "frozen", "max_caption_tokens": 6, "encoder": "clap", "encoder_path": "small"}
    new_captioner(link, CaptionerConfig(str(llama), **settings)).save_pretrained(tmp_path / "captioner")
    return tmp_path / "captioner"


@pytest.fixture
def noises():
    return [np.random.default_rng(seed).normal(0, 0.1, RATE).astype(np.float32) for seed in range(3)]


def test_sounds_in_any_form(folder, encoder, noises, tmp_path):
    captioner = Captioner.from_pretrained(folder)
    for number, noise in enumerate(noises):
        soundfile.write(tmp_path / f"{number}.wav", noise, RATE, subtype="FLOAT")
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    embeddings = encoder.encode_audio(files)
    expected = captioner.generate(embeddings)
    assert "encoder" not in vars(captioner)  # nobody has asked for it
    assert captioner.caption(embeddings) == captioner.caption(embeddings.numpy()) == expected
    assert captioner.caption(files) == captioner.caption([str(file) for file in files], batch_size=2) == expected
    assert captioner.caption([(noise, RATE) for noise in noises]) == expected
    assert captioner.caption({"array": noise, "sampling_rate": RATE} for noise in noises) == expected
    assert captioner.encoder is captioner.encoder and captioner.encoder.fingerprint == encoder.fingerprint
    beams = captioner.caption(files, num_beams=2, num_return_sequences=2)
    assert beams == captioner.generate(embeddings, num_beams=2, num_return_sequences=2)
    assert captioner.caption([]) == []


@pytest.mark.parametrize(
    ("sounds", "kind", "message"),
    [
        ("a.wav", TypeError, "put it in a list"),
        ([np.zeros(9, np.float32)], UnreadableError, "clip 0: an array does not tell its rate"),
        (["nowhere.wav"], UnreadableError, r"nowhere\.wav: no such file"),
        (
            np.zeros(9, np.float32),
            ValueError,
            r"expected embeddings \(n, 256\), got \(9,\): audio goes to caption, as a",
        ),
    ],
)
def test_what_is_no_sound(folder, sounds, kind, message):
    with pytest.raises(kind, match=message):
        Captioner.from_pretrained(folder).caption(sounds)


def test_another_encoder_is_refused_and_none_is_said(folder, make_link):
    captioner = Captioner.from_pretrained(folder)
    captioner.bridge.metadata["fingerprint"] = "another"
    with pytest.raises(ValueError, match="fitted on the encoder another"):
        captioner.caption([(np.zeros(RATE), RATE)])
    nameless = Captioner(captioner.bridge, captioner.llm, captioner.tokenizer, CaptionerConfig(hidden=32))
    with pytest.raises(ValueError, match="does not say which encoder it was trained with: give embeddings"):
        nameless.caption(["a.wav"])


def test_the_best_of_several_and_its_confidence(folder, encoder, noises, tmp_path):
    captioner, sounds = Captioner.from_pretrained(folder), [(noise, RATE) for noise in noises]
    said = captioner.caption(sounds, candidates=3)
    in_full = captioner.caption(sounds, candidates=3, return_all=True)
    assert [one.caption for one in in_full] == said and all(one.confidence is None for one in in_full)
    heard = captioner.bridge.map_rows(encoder.encode_audio(sounds))
    for sound, one in zip(heard, in_full, strict=True):
        best = (encoder.encode_text(one.candidates) @ sound).argmax()
        assert len(one.candidates) == 3 and one.caption == one.candidates[best]
    assert captioner.caption(sounds, candidates=1, return_all=True)[0].candidates == captioner.caption(sounds)[:1]


def test_a_calibration_is_saved_with_the_captioner_and_dropped_with_its_bridge(folder, encoder, tmp_path):
    captioner, draw = Captioner.from_pretrained(folder), torch.Generator().manual_seed(0)
    audio = torch.randn(30, encoder.dim, generator=draw)
    said = encoder.encode_text([captions[0] for captions in captioner.candidates(audio, 2).captions])
    text = torch.stack([said, said], dim=1)
    text[::2] = torch.randn(15, 1, encoder.dim, generator=draw)  # of which no caption is right
    pairs = PairedEmbeddings.from_tensors(audio, text.flatten(0, 1), clip=torch.arange(30).repeat_interleave(2))
    _, share = captioner.calibrate(pairs, audio, torch.randn(20, encoder.dim, generator=draw), candidates=2)
    assert 0 < share <= 0.5
    captioner.save_pretrained(tmp_path / "calibrated")
    loaded = Captioner.from_pretrained(tmp_path / "calibrated")
    found, expected = (each.caption(audio, candidates=2, return_all=True) for each in (loaded, captioner))
    assert found == expected and all(0 <= one.confidence <= 1 for one in found)
    loaded.set_bridge(captioner.bridge)
    assert loaded.confidence is None
