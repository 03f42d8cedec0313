"""LAION's checkpoints in `ClapModel`: the same weights under LAION's names give the same embeddings."""

import argparse
import importlib.util

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
soundfile = pytest.importorskip("soundfile")

from dlink_adapter.extract.encoders import AudioEncoder, load_encoder  # noqa: E402
from dlink_adapter.integrations.laion_clap import (  # noqa: E402
    LaionClapEncoder,
    clap_model,
    load_windows,
    read_checkpoint,
)
from dlink_adapter.soundscapes.small_clap import train_tokenizer  # noqa: E402

RATE = 48_000
CAPTIONS = ["a dog barks", "rain falls while a bell rings", "footsteps"]
LAION_NAMES = (  # of a part of ClapModel, in LAION's checkpoints
    ("text_model.", "text_branch."),
    ("audio_model.audio_encoder.batch_norm.", "audio_branch.bn0."),
    ("audio_model.audio_encoder.", "audio_branch."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("_projection.linear1.", "_projection.0."),
    ("_projection.linear2.", "_projection.2."),
)


def tiny_model(fusion: bool):
    torch.manual_seed(0)
    audio = dict(
        patch_embeds_hidden_size=8, depths=[1, 2], hidden_size=16, num_attention_heads=[2, 4], spec_size=256,
        enable_fusion=fusion, fusion_type="aff_2d" if fusion else None, aff_block_r=2,
    )  # fmt: skip
    text = dict(
        vocab_size=400, hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=32,
        max_position_embeddings=514, layer_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.ClapModel(
        transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=24)
    ).eval()
    model.audio_model.audio_encoder.batch_norm.running_mean.normal_(-30, 5)
    return model


def laion_weights(model):
    """The weights of a `ClapModel` as LAION names them, with the parts that it has besides."""
    weights = {}
    for name, value in model.state_dict().items():
        for here, there in LAION_NAMES:
            name = name.replace(here, there)
        if name.startswith("audio_branch.layers"):
            for here, there in (
                ("attention.output.dense", "attn.proj"), ("attention.self", "attn"),
                ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
            ):  # fmt: skip
                name = name.replace(here, there)
        weights[f"module.{name}"] = value
    for query in [name for name in weights if "attn.query" in name]:
        parts = [weights.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        weights[query.replace("query", "qkv")] = torch.cat(parts)
    weights["module.audio_branch.spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(3)
    weights["module.audio_branch.tscam_conv.weight"] = torch.zeros(3)
    weights["module.audio_branch.layers.0.blocks.0.attn_mask"] = torch.zeros(3)
    weights["module.text_transform.sequential.0.weight"] = torch.zeros(3)
    return weights


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    train_tokenizer(CAPTIONS * 2, folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("laion") / "best.pt"
    # What LAION's training saved beside the weights.
    state = {
        "epoch": 3,
        "name": "x",
        "best": np.float64(0.5),
        "state_dict": laion_weights(model),
        "optimizer": {"lr": 1e-4},
    }
    torch.save(state, path)
    return path


def test_the_weights_find_their_places(model, checkpoint):
    loaded = clap_model(read_checkpoint(checkpoint))
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    for part in ("depths", "num_attention_heads", "window_size", "mlp_ratio", "enable_fusion", "aff_block_r"):
        if part != "aff_block_r" or model.config.audio_config.enable_fusion:
            assert getattr(loaded.config.audio_config, part) == getattr(model.config.audio_config, part)


def test_the_encoder_gives_the_same_embeddings(model, checkpoint, words):
    encoder = load_encoder("laion_checkpoint", str(checkpoint), tokenizer=str(words), batch_size=2)
    assert isinstance(encoder, AudioEncoder) and encoder.rate == RATE and encoder.seconds == 10
    assert (encoder.load.extractor.frequency_min, encoder.load.extractor.frequency_max) == (50, 14_000)
    assert encoder.tokenizer.model_max_length == 77
    mel = encoder.load.features(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32))
    with torch.no_grad():
        output = model.get_audio_features(
            input_features=torch.from_numpy(mel), is_longer=torch.zeros(1, 1, dtype=torch.bool)
        )
    expected = output if isinstance(output, torch.Tensor) else output.pooler_output
    waveform = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    rows = encoder.encode_audio([(waveform, RATE)])
    torch.testing.assert_close(rows, torch.nn.functional.normalize(expected, dim=-1))
    for caption, row in zip(CAPTIONS, encoder.encode_text(CAPTIONS), strict=True):
        with torch.no_grad():
            output = model.get_text_features(**encoder.tokenizer(caption, return_tensors="pt"))
        expected = output if isinstance(output, torch.Tensor) else output.pooler_output
        torch.testing.assert_close(row, torch.nn.functional.normalize(expected[0], dim=-1))


def test_a_pickle_is_not_run(tmp_path):
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=r"best.pt holds more than weights, or is damaged \(argparse.Namespace\)"):
        read_checkpoint(tmp_path / "best.pt")


def test_what_is_no_checkpoint(model, tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is not a CLAP with HTSAT and RoBERTa: it has a"):
        read_checkpoint(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nowhere.pt")
    weights = {name.removeprefix("module."): value for name, value in laion_weights(model).items()}
    weights.pop("audio_branch.norm.weight")
    weights["audio_branch.extra"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"it lacks .*norm.weight.* and has .*extra"):
        clap_model(weights)


def test_windows_of_a_file(tmp_path):
    audio = np.random.default_rng(0).uniform(-1, 1, round(13 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    loaded = load_windows(tmp_path / "a.wav")
    assert loaded.features.shape == (2, 10 * RATE) and loaded.seconds == 13
    tail = audio[10 * RATE :]
    np.testing.assert_array_equal(loaded.features[1], np.concatenate([tail, tail, tail, np.zeros(RATE, np.float32)]))


@pytest.mark.skipif(importlib.util.find_spec("laion_clap") is not None, reason="the package is installed")
def test_without_the_package_the_other_way_is_named(checkpoint):
    with pytest.raises(ImportError, match="laion_checkpoint loads the same file without it"):
        LaionClapEncoder.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="has no revision 'main'"):
        LaionClapEncoder.from_pretrained(checkpoint, revision="main")
