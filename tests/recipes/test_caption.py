"""`dlink caption` on files of all kinds, good and bad."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from dlink_adapter import PairedEmbeddings
from dlink_adapter.integrations.causal_lm import load_captioner
from dlink_adapter.recipes import caption


def write(path, seconds, rate=16000, channels=1, level=0.1):
    """Noise, or silence at level 0."""
    samples = level * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return str(path)


def test_lengths_rates_and_channels(demo_folder, tmp_path, capsys):
    clips = [
        write(tmp_path / "tenth of a second.wav", 0.1),
        write(tmp_path / "ten minutes.wav", 600, rate=8000),
        write(tmp_path / "8k.flac", 2, rate=8000),
        write(tmp_path / "96k.wav", 2, rate=96000),
        write(tmp_path / "stereo.ogg", 2, channels=2),
        write(tmp_path / "surround.wav", 2, channels=6),
        write(tmp_path / "silence.wav", 2, level=0),
    ]
    assert caption.main(clips, model=demo_folder, out=tmp_path / "said.jsonl") == 0
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [line["clip"] for line in said] == clips
    assert len(capsys.readouterr().out.splitlines()) == len(clips)


def test_one_bad_file_among_ten(demo_folder, tmp_path):
    clips = [write(tmp_path / f"{number}.wav", 1) for number in range(10)]
    (tmp_path / "4.wav").write_text("not audio")
    command = [sys.executable, "-m", "dlink_adapter", "caption", *clips, "--model", str(demo_folder)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert [line.split("\t")[0] for line in run.stdout.splitlines()] == [clip for clip in clips if "4.wav" not in clip]
    assert "4.wav" in run.stderr and "Traceback" not in run.stderr


def test_an_empty_file_is_named(demo_folder, tmp_path, capsys):
    (tmp_path / "empty.wav").touch()
    assert caption.main([str(tmp_path / "empty.wav")], model=demo_folder) == 1
    assert "empty.wav" in capsys.readouterr().err


def test_a_folder_without_a_captioner(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no captioner\.json"):
        caption.main(["a.wav"], model=tmp_path)


def test_a_folder_stands_for_the_files_below_it(demo_folder, tmp_path, capsys):
    (tmp_path / "clips/far").mkdir(parents=True)
    clips = [write(tmp_path / "clips" / name, 1) for name in ("a.wav", "b.WAV", "far/c.flac")]
    (tmp_path / "clips/notes.txt").touch()
    (tmp_path / "clips/far/d.wav").write_text("not audio")
    out = tmp_path / "new" / "said.jsonl"
    assert caption.main([str(tmp_path / "clips")], model=demo_folder, out=out, batch_size=2) == 1
    assert [json.loads(line)["clip"] for line in out.read_text().splitlines()] == clips
    assert "d.wav" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no audio files"):
        caption.main([str(tmp_path / "empty")], model=demo_folder)


def test_paired_embeddings_go_by_their_ids(demo_folder, tmp_path):
    folder, out = demo_folder / "embeddings" / "test", tmp_path / "said.jsonl"
    assert caption.main([str(folder)], model=demo_folder, out=out, batch_size=4) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    pairs = PairedEmbeddings.open(folder)
    assert [line["clip"] for line in said] == pairs.ids
    assert [line["caption"] for line in said] == load_captioner(demo_folder).generate(pairs.audio)


def test_embeddings_of_another_encoder_are_refused(demo_folder, tmp_path):
    pairs = PairedEmbeddings.open(demo_folder / "embeddings" / "test").select([0, 1])
    pairs.metadata["fingerprint"] = "another"
    pairs.save(tmp_path / "pairs")
    with pytest.raises(ValueError, match="these embeddings come from another"):
        caption.main([str(tmp_path / "pairs")], model=demo_folder)


def test_candidates_and_confidence(demo_folder, tmp_path, capsys):
    folder, out = str(demo_folder / "embeddings" / "test"), tmp_path / "said.jsonl"
    asked = {"model": demo_folder, "out": out, "candidates": 3}
    assert caption.main([folder], **asked, json=True, min_confidence=0.5) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == said
    assert all(len(line["candidates"]) == 3 and line["caption"] in line["candidates"] for line in said)
    assert all(0 <= line["confidence"] <= 1 and ("unsure" in line) == (line["confidence"] < 0.5) for line in said)
    assert caption.main([folder], **asked, min_confidence=1.0) == 0
    assert all("\tunsure: 0." in line or "\tunsure: 1." in line for line in capsys.readouterr().out.splitlines())


def test_a_confidence_that_was_not_calibrated_is_not_to_be_had(demo_folder, tmp_path):
    shutil.copytree(demo_folder, tmp_path / "demo", ignore=shutil.ignore_patterns("confidence.safetensors"))
    with pytest.raises(ValueError, match="dlink calibrate"):
        caption.main(["a.wav"], model=tmp_path / "demo", min_confidence=0.5)


def test_a_line_of_output_is_one_line_whatever_the_name():
    assert caption._text({"clip": "a\n\x1b[2J.wav", "caption": "rain\nwind"}) == "a\\n\\x1b[2J.wav\train\\nwind"


def test_samples_do_not_depend_on_the_batch(demo_folder, tmp_path):
    folder, said = str(demo_folder / "embeddings" / "test"), []
    for batch_size in (4, 25):
        out = tmp_path / f"{batch_size}.jsonl"
        asked = {"candidates": 2, "source": "sampling", "seed": 3, "out": out, "batch_size": batch_size}
        assert caption.main([folder], model=demo_folder, **asked) == 0
        said.append([json.loads(line)["candidates"] for line in out.read_text().splitlines()])
    assert said[0] == said[1] and said[0][0] != said[0][4]


def test_a_single_candidate_in_full_is_the_plain_caption(demo_folder, tmp_path):
    folder, captions = str(demo_folder / "embeddings" / "test"), []
    for number, json_lines in enumerate((False, True)):
        out = tmp_path / f"{number}.jsonl"
        assert caption.main([folder], model=demo_folder, num_beams=3, json=json_lines, out=out) == 0
        captions.append([json.loads(line)["caption"] for line in out.read_text().splitlines()])
    assert captions[0] == captions[1]
