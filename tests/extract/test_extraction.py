"""Extraction: what is written, what a run that was killed leaves, what is refused."""

import errno
import json
import os
import signal
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.data.clip_tables import Clip
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.extract.extraction import extract
from dlink_adapter.extract.run import mean_pairwise_cosine
from dlink_adapter.integrations.precomputed import PrecomputedEncoder

fork = get_context("fork")


def test_what_is_written(tmp_path, clips, encoder):
    report = extract(clips, encoder, tmp_path / "out", settings={"encoder": "precomputed"}, shard_clips=3, workers=0)
    pairs = PairedEmbeddings.open(tmp_path / "out")
    assert pairs.ids == ["0.npy", "1.npy", "3.npy", "6.npy"]
    assert pairs.captions == [["rain"], ["wind", "a dog"], ["a bell", "rain"], ["a dog"]]
    rows = torch.stack([torch.from_numpy(np.load(clips[number].path)).float() for number in (0, 1, 3, 6)])
    torch.testing.assert_close(pairs.audio, normalize(rows, dim=-1))
    assert torch.equal(pairs.text, encoder.encode_text([caption for group in pairs.captions for caption in group]))
    assert pairs.metadata["fingerprint"] == encoder.fingerprint and pairs.metadata["encoder"] == "precomputed"
    assert pairs.metadata["report"] == report
    assert (report["clips"], report["missing"], report["unreadable"]) == (4, 1, 2)
    assert report["captions_a_clip"] == {"mean": 1.5, "min": 1, "max": 2}
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["path"]) for entry in skipped] == [
        (f"{number}.npy", str(clips[number].path)) for number in (2, 4, 5)
    ]
    for entry, reason in zip(skipped, ("no such file", "4.npy: ", "is zero, or has NaN"), strict=True):
        assert reason in entry["reason"]
    assert len(list((tmp_path / "out").iterdir())) == 2 + 2 * 2  # the third shard's clips, 0 to 2 of its own, are gone


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_and_workers_change_nothing(tmp_path, clips, encoder, workers):
    extract(clips, encoder, tmp_path / "one", workers=workers)
    extract(clips, encoder, tmp_path / "many", workers=0, shard_clips=1)
    one, many = (PairedEmbeddings.open(tmp_path / name) for name in ("one", "many"))
    assert torch.equal(one.audio, many.audio) and torch.equal(one.text, many.text) and one.ids == many.ids


def test_killed_at_any_write_and_resumed_the_folder_is_the_same(tmp_path, clips, encoder, contents, killed_at):
    extract(clips, encoder, tmp_path / "whole", shard_clips=4, workers=0)
    expected = contents(tmp_path / "whole")
    for write in range(200):
        out = tmp_path / f"killed{write}"
        child = fork.Process(
            target=killed_at, args=(write, clips, encoder, out), kwargs={"shard_clips": 4, "workers": 0}
        )
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        extract(clips, encoder, out, shard_clips=4, workers=0)
        assert contents(out) == expected, write
    assert write > 30


def test_a_resumed_run_encodes_what_is_left(tmp_path, clips, encoder, killed_at):
    out, texts, files = tmp_path / "out", [], []
    # Seven files of the plan, the captions, and three for each shard: it is killed when two shards are done.
    child = fork.Process(
        target=killed_at, args=(2 * 13 + 1, clips, encoder, out), kwargs={"shard_clips": 2, "workers": 0}
    )
    child.start()
    child.join()
    done = sorted(path.name for path in (out / ".work").glob("shard-*.json"))
    load, encode_text = encoder.load, encoder.encode_text
    encoder.load = lambda path: files.append(Path(path).name) or load(path)
    encoder.encode_text = lambda captions: texts.append(captions) or encode_text(captions)
    extract(clips, encoder, out, shard_clips=2, workers=0)
    assert len(done) == 2 and not texts
    assert files == ["5.npy", "6.npy"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_is_decoded_once(tmp_path, clips, encoder, workers):
    load, log = encoder.load, tmp_path / "log"

    def logged(path):
        with log.open("a") as file:
            file.write(f"{Path(path).name}\n")
        return load(path)

    encoder.load = logged
    extract(clips, encoder, tmp_path / "out", workers=workers)
    assert sorted(log.read_text().split()) == [f"{number}.npy" for number in (0, 1, 3, 4, 5, 6)]


def test_a_caption_is_encoded_once(tmp_path, clips, encoder):
    encoded, encode_text = [], encoder.encode_text
    encoder.encode_text = lambda captions: encoded.extend(captions) or encode_text(captions)
    extract(clips, encoder, tmp_path / "out", shard_clips=1, workers=0)
    assert sorted(encoded) == sorted(encoder.row_of)


def test_a_finished_folder_is_left_as_it_is(tmp_path, clips, encoder):
    out = tmp_path / "out"
    report = extract(clips, encoder, out, workers=0)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert extract(clips, encoder, out, workers=0) == report
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(ValueError, match=r"holds embeddings with other settings .shard_clips 8192 then, 2 now."):
        extract(clips, encoder, out, shard_clips=2, workers=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match=r"other holds thesis.txt, which is not of such a run"):
        extract(clips, encoder, tmp_path / "other", workers=0)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_finished_folder_of_other_clips_or_files_is_not_taken_for_this_one(tmp_path, clips, encoder):
    out = tmp_path / "out"
    extract(clips[:4], encoder, out, workers=0)
    renamed = [replace(clips[0], captions=["wind"]), *clips[1:4]]
    for others in (clips, clips[:3], renamed):
        with pytest.raises(ValueError, match=r"holds embeddings with other settings .clips_and_files .*: remove it"):
            extract(others, encoder, out, workers=0)
    np.save(clips[3].path, np.ones(6))
    with pytest.raises(ValueError, match="clips_and_files"):
        extract(clips[:4], encoder, out, workers=0)


@pytest.mark.parametrize("kind", ["embeddings-00001-of-00002.safetensors", "captions-00000-of-00002.jsonl"])
def test_a_shard_that_is_gone_or_damaged_is_not_taken_for_finished(tmp_path, clips, encoder, kind):
    out = tmp_path / "out"
    extract(clips, encoder, out, workers=0, shard_clips=4)
    content = (out / kind).read_bytes()
    (out / kind).write_bytes(content[:-1] + b" ")
    with pytest.raises(ValueError, match=rf"{kind} is damaged"):
        extract(clips, encoder, out, workers=0, shard_clips=4)
    (out / kind).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{kind} is gone: remove .*out to extract again"):
        extract(clips, encoder, out, workers=0, shard_clips=4)


def test_no_path_ends_an_extraction(tmp_path, clips, encoder):
    vanishing, strange = clips[1].path, tmp_path / os.fsdecode(b"\xff.npy")
    strange.write_bytes(clips[0].path.read_bytes())
    clips += [
        Clip("long", tmp_path / ("x" * 300), ["rain"]),
        Clip(strange.name, strange, ["rain"]),
        Clip("caption", clips[0].path, [strange.stem]),
    ]
    load = encoder.load

    def late(path):
        vanishing.unlink(missing_ok=True)
        Path(path).open("rb").close()
        return load(path)

    encoder.load = late
    assert extract(clips, encoder, tmp_path / "out", workers=0)["clips"] == 4
    assert strange.name in PairedEmbeddings.open(tmp_path / "out").ids
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    reasons = {entry["id"]: entry["reason"] for entry in skipped}
    assert reasons["long"] == "File name too long" and reasons["caption"] == "a caption is not UTF-8"
    assert "No such file" in reasons["1.npy"]


def test_an_unfinished_run_with_other_settings_is_refused_and_kept(tmp_path, clips, encoder, contents, killed_at):
    out = tmp_path / "out"
    child = fork.Process(target=killed_at, args=(21, clips, encoder, out), kwargs={"shard_clips": 2, "workers": 0})
    child.start()
    child.join()
    before = contents(out)
    with pytest.raises(ValueError, match=r"other settings .shard_clips 2 then, 3 now.: remove it"):
        extract(clips, encoder, out, shard_clips=3, workers=0)
    assert contents(out) == before


def full_disk(clips, encoder, out, answer) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    try:
        extract(clips, encoder, out, shard_clips=3, workers=0)
    except OSError as error:
        answer.put(str(error))


def test_no_room_is_said_and_what_is_done_is_kept(tmp_path, clips, encoder, contents):
    answer = fork.SimpleQueue()
    child = fork.Process(target=full_disk, args=(clips, encoder, tmp_path / "out", answer))
    child.start()
    child.join()
    assert "make room for" in answer.get() and (tmp_path / "out" / ".work").is_dir()
    extract(clips, encoder, tmp_path / "out", shard_clips=3, workers=0)
    extract(clips, encoder, tmp_path / "whole", shard_clips=3, workers=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, clips, encoder):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        extract(clips, encoder, tmp_path / "file" / "out", workers=0)


def test_a_full_disk_says_what_to_do(tmp_path, clips, encoder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"No space left .*: make room for .*out and run"):
        patch.setattr(os, "fsync", full)
        extract(clips, encoder, tmp_path / "out", workers=0)
    assert extract(clips, encoder, tmp_path / "out", workers=0)["clips"] == 4


def test_a_constant_text_tower_is_refused(tmp_path, clips, encoder):
    with pytest.raises(ValueError, match=r"the text tower is constant: .* cosine of 1.00000"):
        extract(clips, PrecomputedEncoder(torch.ones(4, 6), list(encoder.row_of)), tmp_path / "out", workers=0)


def test_nothing_usable(tmp_path, clips, encoder):
    with pytest.raises(ValueError, match=r"none of the 1 files is there; the first would be .*2.npy"):
        extract(clips[2:3], encoder, tmp_path / "none", workers=0)
    with pytest.raises(ValueError, match=r"none of the 1 files can be used; the first: .*4.npy"):
        extract(clips[4:5], encoder, tmp_path / "bad", workers=0)
    for name, number in (("none", 2), ("bad", 4)):  # started again with other settings, when the file is there
        np.save(clips[number].path, np.load(clips[0].path))
        assert extract(clips[number : number + 1], encoder, tmp_path / name, shard_clips=2, workers=0)["clips"] == 1
    with pytest.raises(ValueError, match="workers at least 0"):
        extract(clips, encoder, tmp_path / "out", workers=-1)


def test_mean_pairwise_cosine():
    rows = normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 1, dim=-1)
    gram = rows @ rows.T
    expected = (gram.sum() - gram.trace()) / (50 * 49)
    assert mean_pairwise_cosine(rows.split(7)) == pytest.approx(expected.item(), abs=1e-5)
    assert mean_pairwise_cosine([rows[:1]]) is None
