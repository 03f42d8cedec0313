import logging
import shutil

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
soundfile = pytest.importorskip("soundfile")

from dlink_adapter.extract.audio import AudioError  # noqa: E402
from dlink_adapter.extract.encoders import Encoder, load_encoder  # noqa: E402
from dlink_adapter.integrations.transformers_clap import ClapEncoder, TorchClapFeatureExtractor  # noqa: E402

RATE, SECONDS = 8_000, 2
CAPTIONS = ["a dog barks", "rain falls while a bell rings", "a siren wails in the distance", "footsteps"]


def tiny_clap(folder, *, seed=0, fusion=False):
    torch.manual_seed(seed)
    audio = dict(
        window_size=4, spec_size=64, num_mel_bins=16, patch_embeds_hidden_size=8, depths=[1, 1], hidden_size=16,
        num_attention_heads=[2, 2], enable_fusion=fusion, fusion_type="aff_2d" if fusion else None, aff_block_r=2,
    )  # fmt: skip
    text = dict(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=34,
    )  # fmt: skip
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=24)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=64, max_length_s=SECONDS, fft_window_size=256,
        frequency_max=4_000, truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(folder)  # fmt: skip
    tokenizer(folder).save_pretrained(folder)
    return folder


def tokenizer(folder):
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(CAPTIONS, vocab_size=300, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    return transformers.RobertaTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def encoder(folder):
    return ClapEncoder.from_pretrained(folder, batch_size=3)


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def pooled(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def test_attributes(encoder, folder):
    assert isinstance(encoder, Encoder)
    assert (encoder.dim, encoder.rate, encoder.seconds) == (24, RATE, SECONDS)
    assert (encoder.id, encoder.revision) == (str(folder), None)
    assert not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


@pytest.mark.parametrize("seconds", [0.05, 0.7, SECONDS])
def test_a_short_clip_is_what_clap_itself_makes_of_it(encoder, folder, seconds):
    processor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    features = processor(noise(seconds), sampling_rate=RATE, return_tensors="pt")
    model = transformers.ClapModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = pooled(model.get_audio_features(**features))
    torch.testing.assert_close(encoder.encode_audio([noise(seconds)], sampling_rate=RATE), expected, atol=1e-5, rtol=0)


def test_captions_are_what_clap_itself_makes_of_them(encoder, folder):
    model = transformers.ClapModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    for caption, row in zip(CAPTIONS, encoder.encode_text(CAPTIONS), strict=True):
        with torch.no_grad():
            expected = pooled(model.get_text_features(**words(caption, return_tensors="pt")))[0]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_a_long_clip_is_the_mean_of_its_windows(encoder):
    clip = noise(2 * SECONDS + 1.2)
    size = SECONDS * RATE
    parts = encoder.encode_audio([clip[:size], clip[size : 2 * size], clip[2 * size :]], sampling_rate=RATE)
    expected = torch.nn.functional.normalize(parts.mean(dim=0), dim=0)
    torch.testing.assert_close(encoder.encode_audio([clip], sampling_rate=RATE)[0], expected, atol=1e-5, rtol=0)


def test_outputs_are_plain_unit_float32_in_order_whatever_the_batch(encoder, folder):
    clips = [noise(seconds, seed) for seed, seconds in enumerate([0.3, 5.0, 2.0, 0.9, 7.7])]
    together = encoder.encode_audio(clips, sampling_rate=RATE)
    assert together.dtype == torch.float32
    assert not together.is_inference()
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    alone = torch.cat([ClapEncoder.from_pretrained(folder).encode_audio([clip], sampling_rate=RATE) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_same_clip_has_the_same_embedding_whatever_is_around_it(encoder, folder):
    clips = [noise(seconds, seed) for seed, seconds in enumerate([0.3, 5.0, 2.0, 0.9, 7.7, 2.0, 11.3])]
    loaded = [encoder.load.features(clip) for clip in clips]
    assert all((once == again).all() for once, again in zip(loaded, map(encoder.load.features, clips), strict=True))
    first = encoder.encode_audio(clips, sampling_rate=RATE)
    assert torch.equal(first, encoder.encode_audio(clips, sampling_rate=RATE))
    order = [6, 2, 0, 5, 1, 4, 3]
    for batch_size in (1, 2, 5, 32):
        other = ClapEncoder.from_pretrained(folder, batch_size=batch_size)
        for places in (list(range(7)), order):
            rows = other.encode_audio([clips[place] for place in places], sampling_rate=RATE)
            assert (rows * first[places]).sum(-1).min() >= 0.99999


def test_nothing_is_random(encoder, tmp_path):
    soundfile.write(tmp_path / "long.wav", noise(3.3 * SECONDS), RATE)
    first = encoder.encode_audio([tmp_path / "long.wav"])
    np.random.seed(123)
    torch.manual_seed(123)
    assert torch.equal(first, encoder.encode_audio([str(tmp_path / "long.wav")]))


def test_a_file_of_another_rate_and_channel_count(encoder, tmp_path):
    seconds = np.arange(44_100) / 44_100
    stereo = np.stack([np.sin(2 * np.pi * 440 * seconds), np.sin(2 * np.pi * 1_000 * seconds)], axis=1)
    soundfile.write(tmp_path / "a.flac", 0.5 * stereo, 44_100)
    seconds = np.arange(RATE) / RATE
    mono = 0.25 * (np.sin(2 * np.pi * 440 * seconds) + np.sin(2 * np.pi * 1_000 * seconds))
    rows = encoder.encode_audio([tmp_path / "a.flac", (mono, RATE)])
    assert rows[0] @ rows[1] > 0.999


def test_arrays_are_brought_to_the_rate_of_the_model(encoder, tmp_path):
    audio = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 48_000, subtype="FLOAT")
    expected = encoder.encode_audio([tmp_path / "a.wav"])
    integers = (audio * 32_767).astype(np.int16)
    rows = encoder.encode_audio([(audio, 48_000), {"array": audio, "sampling_rate": 48_000}, (integers, 48_000)])
    torch.testing.assert_close(rows[:2], expected.expand(2, -1))
    assert rows[2] @ expected[0] > 0.9999
    torch.testing.assert_close(encoder.encode_audio([audio], sampling_rate=48_000), expected)
    with pytest.raises(AudioError, match="clip 1: an array does not tell its rate"):
        encoder.encode_audio([(audio, 48_000), audio])


def test_silence_has_an_embedding(encoder):
    assert encoder.encode_audio([np.zeros(RATE, np.float32)], sampling_rate=RATE).isfinite().all()


def test_empty_input(encoder):
    assert encoder.encode_audio([]).shape == (0, 24)
    assert encoder.encode_text([]).shape == (0, 24)


def test_equal_captions_are_computed_once(encoder):
    rows = []
    hook = encoder.model.text_projection.register_forward_hook(lambda _, __, output: rows.append(len(output)))
    repeated = encoder.encode_text(CAPTIONS * 5)
    hook.remove()
    assert sum(rows) == len(CAPTIONS)
    assert torch.equal(repeated, encoder.encode_text(CAPTIONS).repeat(5, 1))


def test_a_caption_longer_than_the_model_is_truncated(encoder):
    endless = " ".join(["a dog barks"] * 100)
    assert encoder.encode_text([endless]).isfinite().all()


@pytest.mark.parametrize("captions", [["fine", " "], ["fine", None]])
def test_bad_captions_are_named(encoder, captions):
    with pytest.raises(ValueError, match="caption 1 is"):
        encoder.encode_text(captions)


def test_one_string_is_not_a_sequence_of_clips_or_captions(encoder):
    for encode in (encoder.encode_audio, encoder.encode_text):
        with pytest.raises(TypeError, match="put it in a list"):
            encode("a dog barks")


def test_bad_clips_are_named(encoder, tmp_path):
    with pytest.raises(AudioError, match=r"clip 1: .*\(samples,\)"):
        encoder.encode_audio([noise(1), np.zeros((2, 100), np.float32)], sampling_rate=RATE)
    with pytest.raises(AudioError, match=r"missing\.wav: no such file"):
        encoder.encode_audio([tmp_path / "missing.wav"])


def test_fingerprint_is_the_checkpoint_wherever_it_lies(encoder, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    encoder.model.save_pretrained(tmp_path / "copy")  # by way of another save
    assert ClapEncoder.from_pretrained(tmp_path / "copy").fingerprint == encoder.fingerprint
    assert ClapEncoder.from_pretrained(tiny_clap(tmp_path / "other", seed=1)).fingerprint != encoder.fingerprint


def test_fingerprint_sees_the_preprocessing(encoder, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, frequency_min=100)
    extractor.save_pretrained(tmp_path / "copy")
    assert ClapEncoder.from_pretrained(tmp_path / "copy").fingerprint != encoder.fingerprint


@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_the_fast_features_are_the_features(truncation):
    settings = dict(truncation=truncation, feature_size=32, sampling_rate=16_000, max_length_s=3, frequency_max=8_000)
    clips = [noise(2.5), np.zeros(20_000, np.float32), np.sin(np.arange(24_000) / 5).astype(np.float32)]
    features = [
        kind(**settings)(clips, sampling_rate=16_000, return_tensors="pt")["input_features"]
        for kind in (transformers.ClapFeatureExtractor, TorchClapFeatureExtractor)
    ]
    torch.testing.assert_close(features[1], features[0], atol=1e-5, rtol=0)  # float32 steps of 100 dB are 7.6e-6


def test_a_fusion_checkpoint_warns_and_is_clap_with_no_clip_marked_as_longer(tmp_path, caplog):
    folder = tiny_clap(tmp_path / "fusion", fusion=True)
    with caplog.at_level(logging.WARNING):
        encoder = ClapEncoder.from_pretrained(folder)
    assert "is_longer" in caplog.text
    features = transformers.AutoFeatureExtractor.from_pretrained(folder)(
        noise(1), sampling_rate=RATE, return_tensors="pt"
    )
    model = transformers.ClapModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = pooled(model.get_audio_features(features["input_features"], is_longer=torch.tensor([[False]])))
    torch.testing.assert_close(encoder.encode_audio([noise(1)], sampling_rate=RATE), expected, atol=1e-5, rtol=0)
    clips = [noise(1, seed) for seed in range(6)]
    alone = torch.cat([encoder.encode_audio([clip], sampling_rate=RATE) for clip in clips])
    torch.testing.assert_close(encoder.encode_audio(clips, sampling_rate=RATE), alone, atol=1e-5, rtol=0)


def test_a_tokenizer_without_its_files_is_refused(folder):
    from tokenizers import Tokenizer, models

    model = transformers.ClapModel.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    empty = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), pad_token="<pad>")
    with pytest.raises(ValueError, match="no vocabulary"):
        ClapEncoder(model, extractor, empty)


def test_another_model_is_refused(tmp_path):
    transformers.WhisperConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a whisper model: ClapEncoder takes clap"):
        ClapEncoder.from_pretrained(tmp_path)


def test_a_model_that_is_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"):
        load_encoder("clap", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"^nobody/clap is neither a folder nor a repository that .*: [^\n]+$"):
        load_encoder("clap", "nobody/clap")


def test_from_the_registry(folder, encoder):
    assert load_encoder("clap", str(folder), batch_size=1).fingerprint == encoder.fingerprint
