"""Precomputed embeddings: every kind of file, tables of all clips and a file for each clip."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dlink_adapter.extract.encoders import AudioEncoder, UnreadableError, load_encoder
from dlink_adapter.integrations.precomputed import PrecomputedEncoder, load_embedding, read_array, read_pairs

DRAW = np.random.default_rng(0)
AUDIO, TEXT = DRAW.normal(size=(3, 5)).astype(np.float32), DRAW.normal(size=(4, 5)).astype(np.float32)
CAPTIONS = [["rain"], ["wind", "a storm"], ["a bell"]]


@pytest.fixture(params=["npy", "npz", "one npz", "safetensors", "one safetensors"])
def files(request, tmp_path):
    """Where the audio and the text rows are, each in a file of its own or both in one."""
    *one, kind = request.param.split()
    names = ["both", "both"] if one else ["audio", "text"]
    paths = [tmp_path / f"{name}.{kind}" for name in names]
    if kind == "npy":
        np.save(paths[0], AUDIO)
        np.save(paths[1], TEXT)
    elif kind == "npz":
        for path, arrays in zip(
            paths, [{"audio": AUDIO, "text": TEXT}] if one else [{"a": AUDIO}, {"b": TEXT}], strict=False
        ):
            np.savez(path, **arrays)
    else:
        tensors = {"audio": torch.from_numpy(AUDIO), "text": torch.from_numpy(TEXT)}
        for path, group in zip(
            paths, [tensors] if one else [{"a": tensors["audio"]}, {"b": tensors["text"]}], strict=False
        ):
            save_file(group, path)
    return paths


def test_pairs_from_whole_tables(files, tmp_path):
    pairs = read_pairs(*files, CAPTIONS, ids=["r", "w", "b"], metadata={"fingerprint": "elsewhere"})
    assert pairs.audio.numpy().tolist() == AUDIO.tolist() and pairs.text.numpy().tolist() == TEXT.tolist()
    saved = pairs.save(tmp_path / "pairs")
    assert (saved.captions, saved.ids, saved.metadata) == (CAPTIONS, ["r", "w", "b"], {"fingerprint": "elsewhere"})


def test_rows_that_do_not_fit(files):
    with pytest.raises(ValueError, match="text has 4 rows, but there are 3 captions"):
        read_pairs(*files, [["rain"], ["wind"], ["a bell"]])


@pytest.fixture
def encoder(tmp_path):
    np.save(tmp_path / "text.npy", TEXT)
    (tmp_path / "text.txt").write_text("rain\nwind\na storm\na bell\n")
    return load_encoder("precomputed", str(tmp_path / "text.npy"), device="cpu", batch_size=2, revision=None)


def test_files_in_place_of_a_model(encoder, tmp_path):
    assert isinstance(encoder, AudioEncoder) and encoder.dim == 5
    np.save(tmp_path / "a.npy", AUDIO[0].astype(np.float64))
    np.save(tmp_path / "windows.npy", AUDIO)
    save_file({"x": torch.from_numpy(AUDIO[1]).bfloat16()}, tmp_path / "b.safetensors")
    rows = encoder.encode_audio(
        [tmp_path / "a.npy", encoder.load(tmp_path / "windows.npy"), tmp_path / "b.safetensors"]
    )
    expected = torch.from_numpy(np.stack([AUDIO[0], AUDIO.mean(0), AUDIO[1]]))
    torch.testing.assert_close(rows, torch.nn.functional.normalize(expected, dim=-1), atol=5e-3, rtol=0)
    text = encoder.encode_text(["a bell", "rain", "a bell"])
    expected = torch.nn.functional.normalize(torch.from_numpy(TEXT[[3, 0, 3]]), dim=-1)
    torch.testing.assert_close(text, expected)
    assert encoder.encode_audio([]).shape == (0, 5)


def test_the_fingerprint_is_that_of_the_captions_and_their_rows(encoder):
    captions = ["rain", "wind", "a storm", "a bell"]
    assert PrecomputedEncoder(TEXT, captions).fingerprint == encoder.fingerprint
    assert PrecomputedEncoder(torch.from_numpy(TEXT), captions[::-1]).fingerprint != encoder.fingerprint
    assert PrecomputedEncoder(torch.from_numpy(TEXT + 1), captions).fingerprint != encoder.fingerprint


def test_what_is_not_there(encoder, tmp_path):
    with pytest.raises(ValueError, match="no embedding of the caption 'snow'"):
        encoder.encode_text(["rain", "snow"])
    np.save(tmp_path / "wide.npy", np.ones(7))
    with pytest.raises(ValueError, match=r"the captions are 5 wide, the clips \[7\]"):
        encoder.encode_audio([tmp_path / "wide.npy"])
    with pytest.raises(TypeError, match="clip 0 is of type tuple: expected a file with its embedding"):
        encoder.encode_audio([(np.ones(5), 16_000)])
    assert torch.equal(encoder.encode_text(caption for caption in ["rain"]), encoder.encode_text(["rain"]))
    with pytest.raises(ValueError, match=r"a row .* for each of 3 captions"):
        PrecomputedEncoder(torch.from_numpy(TEXT), ["a", "b", "c"])
    with pytest.raises(ValueError, match="a row is zero"):
        PrecomputedEncoder(torch.zeros(1, 3), ["a"], id="text.npy")


def test_files_that_cannot_be_used(tmp_path):
    np.savez(tmp_path / "two.npz", a=AUDIO, b=AUDIO)
    np.save(tmp_path / "ints.npy", np.arange(3))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "cube.npy", np.ones((2, 3, 4)))
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors")
    for name, message in (
        ("two.npz", "it holds the arrays a, b: say which"),
        ("ints.npy", "expected floats, got int64"),
        ("objects.npy", "objects.npy: "),
        ("bad.safetensors", "bad.safetensors: "),
        ("gone.npy", "gone.npy: "),
        ("a.pt", "expected one of .npy, .npz, .safetensors"),
        ("cube.npy", r"expected an embedding .* got \(2, 3, 4\)"),
    ):
        with pytest.raises(UnreadableError, match=message):
            load_embedding(tmp_path / name)
    assert read_array(tmp_path / "two.npz", "b").shape == (3, 5)
