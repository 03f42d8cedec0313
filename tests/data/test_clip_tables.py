"""Tables and folders of every layout."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dlink_adapter.data.clip_tables import Clip, read_clips


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_a_table_of_paths_and_captions(tmp_path):
    table = write(
        tmp_path / "clips.csv", "path,caption", 'a/rain 1.wav,"rain, heavy"', "/b.wav,Glöckchen", "a/rain 1.wav,wet"
    )
    media = tmp_path / "media"
    media.mkdir()
    first, second = read_clips(table, media=media)
    assert first == Clip("a/rain 1.wav", media / "a/rain 1.wav", ["rain, heavy", "wet"])
    assert (second.id, str(second.path)) == ("/b.wav", "/b.wav")
    assert read_clips(table)[0].path == tmp_path / "a/rain 1.wav"


def test_tables_of_other_kinds_are_the_same(tmp_path):
    rows = [("a.wav", "rain"), ("b.wav", "wind"), ("a.wav", "wet")]
    csv = write(
        tmp_path / "t.csv",
        "path,caption,more",
        *(f"{path},{caption},x" for path, caption in rows),
        encoding="utf-8-sig",
    )
    tsv = write(tmp_path / "t.tsv", "caption\tpath", *(f"{caption}\t{path}" for path, caption in rows))
    lines = write(tmp_path / "t.jsonl", *(json.dumps({"path": path, "caption": caption}) for path, caption in rows), "")
    lists = write(
        tmp_path / "l.jsonl",
        '{"path": "a.wav", "captions": ["rain", "wet"]}',
        '{"path": "b.wav", "captions": ["wind"]}',
    )
    references = write(
        tmp_path / "r.jsonl",
        '{"clip": "a.wav", "references": ["rain", "wet"]}',
        '{"clip": "b.wav", "references": ["wind"]}',
    )
    expected = [Clip("a.wav", tmp_path / "a.wav", ["rain", "wet"]), Clip("b.wav", tmp_path / "b.wav", ["wind"])]
    assert [read_clips(table) for table in (csv, tsv, lines, lists, references)] == [expected] * 5


def test_audiocaps(tmp_path):
    media = tmp_path / "audio"
    touch(media, "aaa.wav", "x/Y-b_.flac", "ccc_30.mp3", "Yddd_1.5.wav", "eee_7.wav", "aaa.txt")
    rows = ["1,aaa,10,one", "2,-b_,20,two", "3,ccc,30,three", "4,ddd,1.5,four", "5,eee,70,five", "6,aaa,10,again"]
    clips = read_clips(
        write(tmp_path / "val.csv", "audiocap_id,youtube_id,start_time,caption", *rows), "audiocaps", media
    )
    assert [clip.id for clip in clips] == ["aaa_10", "-b__20", "ccc_30", "ddd_1.5", "eee_70"]
    assert [clip.path.relative_to(media).as_posix() for clip in clips] == [
        "aaa.wav", "x/Y-b_.flac", "ccc_30.mp3", "Yddd_1.5.wav", "eee.wav",
    ]  # fmt: skip
    assert clips[0].captions == ["one", "again"] and not clips[-1].path.exists()


def test_clotho(tmp_path):
    head = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    table = write(tmp_path / "clotho.csv", head, "Água (2).wav,a,b,c,d,e")
    (clip,) = read_clips(table, "clotho")
    assert clip == Clip("Água (2).wav", tmp_path / "Água (2).wav", list("abcde"))


def test_the_columns_tell_the_layout(tmp_path):
    head = "file_name," + ",".join(f"caption_{number}" for number in range(1, 6))
    assert read_clips(write(tmp_path / "c.csv", head, "a.wav,a,b,c,d,e"))[0].captions == list("abcde")
    table = write(tmp_path / "a.csv", "audiocap_id,youtube_id,start_time,caption", "1,aaa,10,one")
    assert read_clips(table)[0].id == "aaa_10"
    with pytest.raises(ValueError, match="no path in it"):
        read_clips(table, "table")


def test_a_folder_with_captions_beside_the_files(tmp_path):
    touch(tmp_path, "a/rain.WAV", "b.flac", "notes.md")
    write(tmp_path / "a/rain.txt", "rain falls", "", "wet")
    with pytest.raises(ValueError, match=r"b.flac has no captions in b.txt beside it.*labels"):
        read_clips(tmp_path)
    write(tmp_path / "b.txt", "wind")
    assert [(clip.id, clip.captions) for clip in read_clips(tmp_path)] == [
        ("a/rain.WAV", ["rain falls", "wet"]),
        ("b.flac", ["wind"]),
    ]


def test_folders_named_for_what_is_in_them(tmp_path):
    touch(tmp_path / "elsewhere", "1.wav")
    root = tmp_path / "root"
    touch(root, "dog_bark/2.ogg", "dog_bark/1.ogg")
    (root / "linked sea").symlink_to(tmp_path / "elsewhere")
    (root / "linked sea" / "circle").symlink_to(root)
    found = [(clip.id, *clip.captions) for clip in read_clips(root, "labels")]
    assert ("dog_bark/1.ogg", "dog bark") in found and ("linked sea/1.wav", "linked sea") in found
    assert len(found) == 3


@pytest.mark.parametrize(
    ("lines", "layout", "message"),
    [
        (
            ["path,text", "a.wav,x"],
            None,
            "t.csv, line 2: a.wav needs a caption, or captions that are a list; it has path, text",
        ),
        (["file,caption", "a.wav,x"], None, "t.csv, line 2: no path in it; it has file, caption: rename the col"),
        (["path,caption", "a.wav,x", "b.wav, "], None, "1 clips have a caption without words, the first is 'b.wav'"),
        (["path,caption"], None, "names no clips"),
        (["youtube_id,caption", "a,x"], "audiocaps", "t.csv, line 2: no start_time"),
        (["youtube_id,start_time,caption", "a,x,y"], "audiocaps", "t.csv, line 2: start_time is 'x': expected seconds"),
        (["file_name,caption_1", "a.wav,x"], "clotho", "t.csv, line 2: no caption_2"),
        (["path,caption", "a.wav,x", "b.wav,a dog, barking"], None, "t.csv, line 3: 3 cells for 2 columns: put a cell"),
        (["path,caption", "", "b.wav,a dog, barking"], None, "t.csv, line 3: 3 cells"),
        (["path,caption", 'a.wav,"a dog', "b.wav,rain", "c.wav,wind"], None, "t.csv, line 2: unexpected end of data"),
        (["path,caption", 'a.wav,"a dog', 'b.wav,rain"'], None, "t.csv, line 2: it goes on to line 3, is a quote left"),
        (["path,caption", 'a.wav,"Stop" says he'], None, "t.csv, line 2: ',' expected after '\"': put a cell with"),
        (["path,caption", "a.wav,x"], "audiocap", "unknown layout 'audiocap'; known: table, audiocaps"),
    ],
)
def test_bad_tables_are_named(tmp_path, lines, layout, message):
    with pytest.raises(ValueError, match=message):
        read_clips(write(tmp_path / "t.csv", *lines), layout)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_another_encoding_is_named(tmp_path, suffix):
    table = write(tmp_path / f"t.{suffix}", "path,caption", "a.wav,Glöckchen", encoding="latin1")
    with pytest.raises(ValueError, match=rf"t.{suffix}, line 2: byte 0xf6 is not UTF-8: save it as UTF-8"):
        read_clips(table)


@pytest.mark.parametrize(
    ("line", "message"), [("{bad", "not JSON .Expecting property name"), ("[1]", "expected .* got"), ("{}", "no path")]
)
def test_bad_lines_of_json_are_named(tmp_path, line, message):
    table = write(tmp_path / "t.jsonl", '{"path": "a.wav", "caption": "x"}', "", line)
    with pytest.raises(ValueError, match=rf"t.jsonl, line 3: {message}"):
        read_clips(table)


def test_what_is_not_a_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv: no such file"):
        read_clips(tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match="media: no such file"):
        read_clips(write(tmp_path / "t.csv", "path,caption"), media=tmp_path / "media")
    with pytest.raises(ValueError, match=r"expected a .csv, .tsv or .jsonl"):
        read_clips(write(tmp_path / "t.xlsx", "path,caption"))
    with pytest.raises(ValueError, match="is a folder: this layout takes"):
        read_clips(tmp_path, "clotho")
    with pytest.raises(ValueError, match="needs a caption"):
        read_clips(write(tmp_path / "t.jsonl", '{"path": "a.wav", "captions": "rain"}'))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, as those of pytest are its own user's."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def without_privileges() -> Iterator[None]:
    """The rights of an ordinary user: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_folder_that_cannot_be_read_is_said_and_the_others_are_read(open_folder, request, mode):
    for name in ("open/rain", "shut/wind"):
        touch(open_folder, f"{name}.wav")
        write(open_folder / f"{name}.txt", "words")
    (open_folder / "shut").chmod(mode)
    request.getfixturevalue("without_privileges")
    with pytest.warns(UserWarning, match="shut.* is left out: Permission denied"):
        assert [clip.id for clip in read_clips(open_folder)] == ["open/rain.wav"]


def test_json_that_is_nested_too_deeply_is_named(tmp_path):
    table = write(tmp_path / "t.jsonl", "[" * 100_000)
    with pytest.raises(ValueError, match=r"t.jsonl, line 1: not JSON") as raised:
        read_clips(table)
    assert len(str(raised.value)) < 500
