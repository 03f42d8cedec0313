"""`dlink extract-embeddings` and `dlink embeddings info` on files of all kinds, with the demo's CLAP."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.recipes import embeddings, extract_embeddings


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Files of every kind, long and short, one damaged, another missing, in folders that cannot be written to."""
    folder, draw = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    kinds = [
        ("eight kHz.wav", 8_000, 1, "PCM_U8", 2), ("Glöckchen/ding dong.flac", 44_100, 2, "PCM_24", 12),
        ("surround.wav", 48_000, 6, "DOUBLE", 1), ("high.wav", 192_000, 1, "FLOAT", 1),
        ("a.ogg", 22_050, 1, None, 3), ("a.mp3", 44_100, 2, None, 3), ("int.wav", 16_000, 1, "PCM_16", 17),
    ]  # fmt: skip
    for name, rate, channels, subtype, seconds in kinds:
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, 0.1 * draw.standard_normal((seconds * rate, channels)), rate, subtype=subtype)
    (folder / "linked.wav").symlink_to("int.wav")
    (folder / "damaged.wav").write_text("not audio")
    names = [name for name, *_ in kinds] + ["linked.wav", "damaged.wav", "missing.wav"]
    rows = [{"path": name, "captions": [f"the sound of {name}", "a sound"]} for name in names]
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for path in (folder / "Glöckchen", folder):
        path.chmod(0o555)
    before = tree(folder)
    yield folder
    assert tree(folder) == before  # it was only read
    for path in (folder / "Glöckchen", folder):
        path.chmod(0o755)


def tree(folder):
    return {path: path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.fixture(scope="module")
def extracted(media, demo_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "pairs"
    extract_embeddings.main(media / "clips.jsonl", out=out, model="small", shard_clips=4, workers=1)
    return out


def test_every_kind_of_file(extracted, media, demo_folder):
    encoder = ClapEncoder.from_pretrained("small")
    pairs = PairedEmbeddings.open(extracted)
    assert len(pairs) == 16 and pairs.ids[-1] == "linked.wav"
    alone = torch.cat([encoder.encode_audio([media / name]) for name in pairs.ids])
    assert ((pairs.audio * alone).sum(-1) > 0.99999).all()
    assert pairs.audio[-1] @ pairs.audio[-2] > 0.99999  # the link and its target
    assert torch.equal(pairs.text[1], pairs.text[3])  # "a sound" was encoded once
    metadata = pairs.metadata
    assert (metadata["encoder"], metadata["rate"], metadata["fingerprint"]) == ("clap", 16_000, encoder.fingerprint)
    assert metadata["id"] == "small" and "non-overlapping 5 s" in metadata["windows"]
    report = metadata["report"]
    assert (report["clips"], report["missing"], report["unreadable"]) == (8, 1, 1)
    assert report["seconds_a_clip"]["max"] == 17 and report["hours"] == pytest.approx(56 / 3600, abs=1e-3)
    reasons = {line["id"]: line["reason"] for line in map(json.loads, (extracted / "skipped.jsonl").open())}
    assert reasons["missing.wav"] == "no such file" and "not readable as audio" in reasons["damaged.wav"]


def test_info(extracted, demo_folder, capsys):
    embeddings.main("info", extracted)
    said = capsys.readouterr().out
    for line in ("pairs          16", "dim 256, float32, 2 shards", "missing        1", "captions/clip  2.0 (2 to 2)"):
        assert line in said
    embeddings.main("info", demo_folder / "embeddings" / "pairs")
    assert "fingerprint    " in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"no header\.json"):
        embeddings.main("info", demo_folder)


def test_two_processes_give_what_one_gives(extracted, media, demo_folder, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "dlink_adapter",
        "extract-embeddings", media / "clips.jsonl", "--out", tmp_path / "two", "--model", "small",
        "--shard_clips", "4", "--workers", "0",
    ]  # fmt: skip
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("mean cosine") == 1
    for path in extracted.iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_errors_are_explained(media, demo_folder, tmp_path):
    with pytest.raises(ValueError, match="unknown encoder 'clop'"):
        extract_embeddings.main(media / "clips.jsonl", out=tmp_path / "out", encoder="clop")
    with pytest.raises(ValueError, match="unknown layout"):
        extract_embeddings.main(media / "clips.jsonl", out=tmp_path / "out", layout="flickr")
    assert not (tmp_path / "out").exists()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds README.md, which is not of such a run"):
        extract_embeddings.main(media / "clips.jsonl", out=tmp_path, model="nowhere")  # before it is loaded


def test_files_that_are_all_the_same_are_warned_of(media, tmp_path):
    for name in ("a dog", "rain", "a bell"):
        (tmp_path / "media" / name).mkdir(parents=True)
        (tmp_path / "media" / name / "1.wav").write_bytes((media / "high.wav").read_bytes())
    with pytest.warns(UserWarning, match="the audio embeddings have collapsed"):
        extract_embeddings.main(tmp_path / "media", out=tmp_path / "out", model="small", layout="labels", workers=1)
    assert (tmp_path / "out" / "header.json").is_file()
