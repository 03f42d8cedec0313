"""Files and folders that are complete or not there, and JSONL."""

import os
import stat

import pytest

from dlink_adapter.files import (
    appearing_folder,
    check_own,
    check_sha256,
    printable,
    read_json,
    read_jsonl,
    sha256,
    to_jsonl,
    write_atomically,
)


def test_bytes_and_text(tmp_path):
    for content in (b"\x00\xff", "Glocke läutet\n"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644  # others may read it, unlike a temporary file


def test_the_old_file_stays_where_writing_fails(tmp_path):
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", 3)
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    write_atomically(tmp_path / "file", "old")
    with (tmp_path / "file").open() as reader:
        write_atomically(tmp_path / "file", "new")
        assert reader.read() == "old"
    assert (tmp_path / "file").read_text() == "new"


def test_a_folder_appears_at_the_end(tmp_path):
    with appearing_folder(tmp_path / "a" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"


def test_a_folder_does_not_appear_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), appearing_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_cleared(tmp_path):
    with appearing_folder(tmp_path / "other") as folder:
        name = folder.name.replace("other", "out")
    (tmp_path / name).mkdir()
    (tmp_path / name / "half").write_text("x")
    with appearing_folder(tmp_path / "out") as folder:
        assert folder.name == name and not list(folder.iterdir())


def test_an_existing_folder_is_refused_unless_it_is_empty(tmp_path):
    (tmp_path / "out").mkdir()
    with appearing_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    with pytest.raises(FileExistsError, match="remove it to write it again"), appearing_folder(tmp_path):
        raise AssertionError


def test_a_folder_of_somebody_else_is_told_from_an_own_one(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("new", "out"):  # not there, and empty
        check_own(tmp_path / name, "stages")
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out holds README.md, which is not of such a run: choose another"):
        check_own(tmp_path / "out", "stages", "seed-*")
    (tmp_path / "out" / "seed-3").mkdir()
    check_own(tmp_path / "out", "stages", "seed-*")
    with pytest.raises(FileExistsError, match=r"README.md is a file: choose another name"):
        check_own(tmp_path / "out" / "README.md", "stages")


def test_lines_of_json(tmp_path):
    entries = [{"caption": "Glocke\nläutet"}, {"path": os.fsdecode(b"\xff.wav")}]
    write_atomically(tmp_path / "file", to_jsonl(iter(entries)))
    assert (tmp_path / "file").read_bytes().count(b"\n") == 2 and "läutet".encode() in (tmp_path / "file").read_bytes()
    assert read_jsonl(tmp_path / "file") == entries


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "1", "{", '"\\ud800', ""])
def test_what_is_no_json_object_is_named(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json is damaged: "):
        read_json(path)
    path.write_text('{"a": 1}\n' + text + "\n")
    with pytest.raises(ValueError, match=r"file\.json, line 2 is damaged: "):
        read_jsonl(path)


def test_a_checksum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path).startswith("ba7816bf")
    check_sha256(path, sha256(path), "header.json")
    check_sha256(path, None, "header.json")  # of an earlier version
    with pytest.raises(ValueError, match=r"file is damaged, or does not fit header.json: its SHA-256"):
        check_sha256(path, "0" * 64, "header.json")


def test_a_name_is_one_line_on_a_terminal():
    assert printable("Glöckchen 1.wav") == "Glöckchen 1.wav"
    assert printable("a\n\x1b[2J\t" + os.fsdecode(b"\xff")) == "a\\n\\x1b[2J\\t\\udcff"
