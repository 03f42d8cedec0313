"""Predictions find their clips by id and by file, and nothing is guessed."""

import json
from pathlib import Path

import pytest

from dlink_adapter.data.clip_tables import Clip, read_clips
from dlink_adapter.measure.predictions import Prediction, match, read_predictions


def clips(*ids: str) -> list[Clip]:
    return [Clip(name, Path(name), ["a caption"]) for name in ids]


def found(ids: tuple[str, ...], *names: str) -> list[tuple[str, str]]:
    matched = match(clips(*ids), {name: Prediction(name) for name in names})
    return [(clip.id, said) for clip, said in zip(matched.clips, matched.captions, strict=True)]


def test_by_id_by_path_and_by_the_end_of_a_path():
    assert found(("a/1.wav", "b/1.wav"), "out/b/1.flac", "a/1.wav") == [
        ("a/1.wav", "a/1.wav"),
        ("b/1.wav", "out/b/1.flac"),
    ]
    assert found(("rain", "ddd_1.5"), "ddd_1.5", "audio/rain.mp3") == [
        ("rain", "audio/rain.mp3"),
        ("ddd_1.5", "ddd_1.5"),
    ]
    assert found(("/data/audio/b.wav",), "audio/b.wav") == [("/data/audio/b.wav", "audio/b.wav")]


def test_the_exact_id_and_then_the_longer_end_wins():
    assert found(("1.wav", "a/1.wav"), "1.wav", "x/a/1.wav") == [("1.wav", "1.wav"), ("a/1.wav", "x/a/1.wav")]


def test_audiocaps_files_by_every_name_that_they_go_by(tmp_path):
    table = tmp_path / "test.csv"
    table.write_text("audiocap_id,youtube_id,start_time,caption\n" + "".join(f"1,{c * 3},30,x\n" for c in "abcd"))
    names = ["aaa.wav", "audio/Ybbb.flac", "ccc_30.wav", "Yddd_30.mp3"]
    assert match(read_clips(table), dict.fromkeys(names, Prediction("y"))).without_references == []


def test_what_is_left_over_is_named():
    matched = match(clips("a.wav", "b.wav"), {"a.wav": Prediction("x"), "c.wav": Prediction("y")})
    assert (matched.without_prediction, matched.without_references) == (["b.wav"], ["c.wav"])


def test_what_cannot_be_told():
    with pytest.raises(ValueError, match=r"'1.wav' could be of the clips \['a/1.wav', 'b/1.wav'\]: give the clip's id"):
        found(("a/1.wav", "b/1.wav"), "1.wav")
    with pytest.raises(ValueError, match=r"clip 'a.wav' has two predictions, 'a.wav' and 'x/a.flac'"):
        found(("a.wav",), "a.wav", "x/a.flac")
    with pytest.raises(ValueError, match=r"none of 1 predictions .* the first is of 'c.wav', the first clip 'a.wav'"):
        found(("a.wav",), "c.wav")


def test_files_of_predictions(tmp_path):
    path = tmp_path / "said.jsonl"
    path.write_text('{"clip": "a.wav", "caption": "Glöckchen"}\n\n{"file": "b.wav", "caption": ""}\n', encoding="utf-8")
    assert read_predictions(path) == {"a.wav": Prediction("Glöckchen"), "b.wav": Prediction("")}
    path.write_text('{"clip": "a.wav", "caption": "x", "candidates": ["x", "y"], "confidence": 0.5}')
    assert read_predictions(path) == {"a.wav": Prediction("x", ["x", "y"], 0.5)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps({"clip": "a", "caption": "again"}), "line 2: a second caption of 'a'"),
        ('{"clip": "b"}', "line 2: expected"),
        ('{"caption": "b"}', "line 2: expected"),
        ("[1]", "line 2: expected"),
        ("a dog", "line 2: expected"),
        ('{"clip": "b", "caption": null}', "line 2: the clip and the caption must be strings"),
    ],
)
def test_bad_lines(tmp_path, line, message):
    path = tmp_path / "said.jsonl"
    path.write_text('{"clip": "a", "caption": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


def test_another_encoding_is_named(tmp_path):
    path = tmp_path / "said.jsonl"
    path.write_text('{"clip": "a.wav", "caption": "Glöckchen"}\n', encoding="latin1")
    with pytest.raises(ValueError, match=r"said.jsonl, line 1: byte 0xf6 is not UTF-8"):
        read_predictions(path)
