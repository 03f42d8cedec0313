"""Paired embeddings: round trips, memory mapping, batches, and what is refused."""

import json
import math
import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.data.shard_rows import ShardRows
from dlink_adapter.files import sha256

CAPTIONS = [["a dog barks", "barking"], ["rain"], ["a bell", "Glocke läutet", "ding"], ["wind"], ["a bird", "birds"]]
IDS = ["dog", "rain", "bell", "wind", "birds"]
CLIP = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4])


@pytest.fixture
def audio() -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def text() -> Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["memory", "one shard", "three shards"])
def pairs(request, tmp_path, audio, text) -> PairedEmbeddings:
    if request.param == "memory":
        return PairedEmbeddings.from_tensors(audio, text, CAPTIONS, ids=IDS, metadata={"encoder": "toy"})
    clips = 2 if request.param == "three shards" else 65536
    return PairedEmbeddings.write(tmp_path / "pairs", audio, text, CAPTIONS, IDS, {"encoder": "toy"}, shard_clips=clips)


def test_everything_comes_back(pairs, audio, text):
    assert (len(pairs), pairs.clips, pairs.dim, pairs.metadata) == (9, 5, 6, {"encoder": "toy"})
    assert (pairs.captions, pairs.ids) == (CAPTIONS, IDS)
    assert torch.equal(pairs.audio, audio) and torch.equal(pairs.text, text) and torch.equal(pairs.clip, CLIP)
    assert all(torch.equal(a, b) for a, b in zip(pairs.tensors(), (audio[CLIP], text), strict=True))


def test_indexing(pairs, audio, text):
    for index in (*range(9), -1, -9):
        assert torch.equal(pairs[index][0], audio[CLIP[index]]) and torch.equal(pairs[index][1], text[index])
    for index in (9, -10):
        with pytest.raises(IndexError, match=rf"pair {index} of 9"):
            pairs[index]
    for part in (slice(3), slice(-2, None), slice(None, None, 4), slice(5, 5)):
        assert all(map(torch.equal, pairs[part], (audio[CLIP][part], text[part])))
    batch = pairs.__getitems__([8, 0, 4, 0])
    assert torch.equal(torch.stack([a for a, _ in batch]), audio[CLIP[[8, 0, 4, 0]]])


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(pairs, audio, text, workers):
    batches = list(DataLoader(pairs, batch_size=4, num_workers=workers))
    assert [len(a) for a, _ in batches] == [4, 4, 1]
    assert torch.equal(torch.cat([a for a, _ in batches]), audio[CLIP])
    assert torch.equal(torch.cat([b for _, b in batches]), text)


def test_spawned_worker(tmp_path, audio, text):
    pairs = PairedEmbeddings.write(tmp_path / "pairs", audio, text, CAPTIONS, shard_clips=2).select([3, 2])
    loader = DataLoader(pairs, batch_size=9, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader))[1], text[[6, 3, 4, 5]])


def test_select_keeps_the_given_order(pairs, audio, text):
    chosen = pairs.select([4, 0, 3]).select([1, 0])
    assert (chosen.ids, chosen.captions) == (["dog", "birds"], [CAPTIONS[0], CAPTIONS[4]])
    assert torch.equal(chosen.audio, audio[[0, 4]])
    assert torch.equal(chosen.text, text[[0, 1, 7, 8]])
    assert chosen.clip.tolist() == [0, 0, 1, 1] and len(chosen) == 4 and chosen.clips == 2
    assert torch.equal(chosen[2][0], audio[4]) and torch.equal(chosen[2][1], text[7])


def test_pickle(pairs, audio):
    copy = pickle.loads(pickle.dumps(pairs.select([2, 1])))
    assert torch.equal(copy.audio, audio[[2, 1]]) and copy.ids == ["bell", "rain"]


def test_split_by_clip():
    n = 1000
    pairs = PairedEmbeddings.from_tensors(torch.rand(n, 3), torch.rand(3 * n, 3), clip=torch.arange(3 * n) // 3)
    parts = pairs.split((0.8, 0.1, 0.1), seed=1)
    assert [part.clips for part in parts] == [800, 100, 100]
    assert sorted(name for part in parts for name in part.ids) == sorted(pairs.ids)
    assert parts[1].ids == pairs.split((0.8, 0.1, 0.1), seed=1)[1].ids != pairs.split((0.8, 0.1, 0.1))[1].ids
    assert [part.clips for part in pairs.split([0.25])] == [250]
    for fractions, message in (((0.9, 0.2), "add up to 1"), ((), "add up to 1"), ((0.5, 0.0001), "too few")):
        with pytest.raises(ValueError, match=message):
            pairs.split(fractions)


def test_layout_on_disk(tmp_path, audio, text):
    PairedEmbeddings.write(tmp_path / "a" / "pairs", audio, text, CAPTIONS, IDS, {"rate": 48000}, shard_clips=2)
    folder = tmp_path / "a" / "pairs"
    assert [path.name for path in sorted(folder.parent.iterdir())] == ["pairs"]  # and no unfinished folder
    kinds = [("captions", "jsonl"), ("embeddings", "safetensors")]
    shards = [f"{kind}-{i:05d}-of-00003.{end}" for kind, end in kinds for i in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == [*shards, "header.json"]
    second = load_file(folder / "embeddings-00001-of-00003.safetensors")
    assert torch.equal(second["audio"], audio[2:4]) and second["clip"].tolist() == [0, 0, 0, 1]
    assert torch.equal(second["text"], text[3:7])
    lines = (folder / "captions-00001-of-00003.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"id": "bell", "captions": CAPTIONS[2]}
    header = json.loads((folder / "header.json").read_text())
    files = folder / "embeddings-00001-of-00003.safetensors", folder / "captions-00001-of-00003.jsonl"
    assert header["shards"][1] == {"clips": 2, "captions": 4, "sha256": [sha256(path) for path in files]}
    assert (header["clips"], header["captions"], header["dim"], header["dtype"]) == (5, 9, 6, "float32")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_kept(tmp_path, audio, text, dtype):
    pairs = PairedEmbeddings.write(tmp_path / "pairs", audio.to(dtype), text.to(dtype), CAPTIONS)
    assert torch.equal(PairedEmbeddings.open(tmp_path / "pairs").audio, audio.to(dtype))
    assert pairs[0][1].dtype == dtype and pairs.ids == list("01234")


def resident_file_kib() -> int:
    status = Path("/proc/self/status").read_text()
    fields = {line.split(":")[0]: line.split() for line in status.splitlines()}
    return int(fields["RssFile"][1]) + int(fields["RssAnon"][1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
def test_opening_loads_nothing(tmp_path):
    rows, folder = torch.ones(8000, 1024), tmp_path / "pairs"  # 2 x 32 MiB
    PairedEmbeddings.write(folder, rows, rows, [["x"]] * 8000, shard_clips=1000)
    before = resident_file_kib()
    pairs = PairedEmbeddings.open(folder, check_values=False)
    assert pairs[4321][0].sum() == 1024
    assert resident_file_kib() - before < 8 * 1024
    checked = PairedEmbeddings.open(folder)
    assert resident_file_kib() - before < 24 * 1024  # one shard at a time
    assert len(checked) == len(pairs)


def test_the_folder_is_all_or_nothing(tmp_path, audio, text):
    folder = tmp_path / "pairs"
    with pytest.raises(TypeError, match="JSON"):
        PairedEmbeddings.write(folder, audio, text, CAPTIONS, metadata={"model": audio})
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    PairedEmbeddings.write(folder, audio, text, CAPTIONS)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        PairedEmbeddings.write(folder, audio, text, CAPTIONS)
    assert len(PairedEmbeddings.open(folder)) == 9


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
def test_reading_everything_keeps_little(tmp_path, monkeypatch):
    monkeypatch.setattr("dlink_adapter.data.shard_rows.ROWS_AT_ONCE", 40)
    rows = torch.ones(8000, 2048)  # 2 x 64 MiB
    pairs = PairedEmbeddings.write(tmp_path / "pairs", rows, rows, [["x"]] * 8000, shard_clips=1000)
    together, read = [], ShardRows.read
    monkeypatch.setattr(ShardRows, "read", lambda *args: together.append(len(found := read(*args))) or found)
    before = resident_file_kib()
    for _ in DataLoader(pairs, batch_size=100, shuffle=True):
        pass
    assert resident_file_kib() - before < 32 * 1024
    assert torch.equal(pairs.select(range(7000)).audio, rows[:7000]) and max(together) == 40


def test_blocks_are_the_rows(pairs, audio, text, monkeypatch):
    monkeypatch.setattr("dlink_adapter.data.shard_rows.BLOCK_ROWS", 2)
    for part, clips in ((pairs, [0, 1, 2, 3, 4]), (pairs.select([4, 2]), [4, 2])):
        blocks = part.blocks("audio")
        assert [len(block) for block in blocks] == [2] * (len(clips) // 2) + [1] * (len(clips) % 2)
        for _ in range(2):
            assert torch.equal(torch.cat(list(blocks)), audio[clips])
        assert torch.equal(torch.cat(list(part.blocks("text"))), part.text)


def test_saved_selection(pairs, tmp_path):
    chosen = pairs.select([4, 0, 2])
    saved = chosen.save(tmp_path / "chosen", shard_clips=2)
    assert (saved.ids, saved.captions, saved.metadata) == (chosen.ids, chosen.captions, pairs.metadata)
    assert torch.equal(saved.audio, chosen.audio) and torch.equal(saved.text, chosen.text)
    assert len(list((tmp_path / "chosen").glob("*.safetensors"))) == 2
    with pytest.raises(FileExistsError, match="not an empty folder"):
        pairs.save(tmp_path / "chosen")


def test_pairs_without_captions_are_not_saved(tmp_path, audio):
    with pytest.raises(ValueError, match="no captions"):
        PairedEmbeddings.from_tensors(audio, audio).save(tmp_path / "pairs")
    assert not list(tmp_path.iterdir())


def test_merged(pairs, tmp_path, audio, text):
    more = PairedEmbeddings.from_tensors(
        audio + 1, text[:5] + 1, [["x"]] * 5, ids=list("abcde"), metadata={"encoder": "toy", "split": "val"}
    )
    for first, second in ((pairs, more), (pairs.select([3, 1]), more), (pairs, more.select([2]))):
        merged = PairedEmbeddings.merge([first, second])
        assert (len(merged), merged.clips) == (len(first) + len(second), first.clips + second.clips)
        assert (merged.ids, merged.captions) == (first.ids + second.ids, first.captions + second.captions)
        assert torch.equal(merged.audio, torch.cat([first.audio, second.audio]))
        assert torch.equal(merged.text, torch.cat([first.text, second.text]))
        assert torch.equal(merged.clip, torch.cat([first.clip, first.clips + second.clip]))
        assert merged.metadata == {"encoder": "toy", "split": [None, "val"]}
    assert torch.equal(merged.save(tmp_path / "merged").select([5, 0]).audio, torch.stack([audio[2] + 1, audio[0]]))


def test_what_does_not_merge(pairs, audio, text):
    other = {
        "dim": PairedEmbeddings.from_tensors(audio[:, :5], text[:5, :5]),
        "dtype": PairedEmbeddings.from_tensors(audio.half(), text[:5].half()),
        "fingerprint": PairedEmbeddings.from_tensors(audio, text[:5], metadata={"fingerprint": "other"}),
    }
    for part in other.values():
        with pytest.raises(ValueError, match="of one dim, dtype and encoder fingerprint"):
            PairedEmbeddings.merge([pairs, part])
    with pytest.raises(ValueError, match="the id 'dog' is given to more than one clip"):
        PairedEmbeddings.merge([pairs, pairs.select([1, 0])])
    with pytest.raises(ValueError, match="at least one"):
        PairedEmbeddings.merge([])


def bad_tensors(audio: Tensor, text: Tensor) -> Iterator[tuple[tuple, dict, str]]:
    nan, zero = audio.clone(), text.clone()
    nan[3, 1], zero[4] = math.nan, 0
    yield (nan, text, CAPTIONS), {"ids": IDS}, "the audio of clip 'wind'"
    yield (audio, zero, CAPTIONS), {"ids": IDS}, "a caption of clip 'bell'"
    yield (audio / 0, text, CAPTIONS), {}, "clip '0' is zero, or has NaN or Inf"
    yield (audio, text[:8], CAPTIONS), {}, "text has 8 rows, but there are 9 captions"
    yield (audio[:4], text, CAPTIONS), {}, "audio has 4 rows, but there are 4 ids and 5 lists"
    yield (audio, text, CAPTIONS), {"ids": IDS[:3]}, "5 rows, but there are 3 ids"
    yield (audio, text, CAPTIONS), {"ids": ["dog", *IDS[:4]]}, "id 'dog' is given to more than one clip"
    yield (audio, text[:, :5], CAPTIONS), {}, r"\(5, 6\) torch.float32 and \(9, 5\)"
    yield (audio, text.double(), CAPTIONS), {}, "one dim and dtype"
    yield (audio[0], text, CAPTIONS), {}, "one dim and dtype"
    yield (audio.long(), text.long(), CAPTIONS), {}, "embeddings are floating-point .*, got torch.int64"
    yield (
        (audio, text, [*CAPTIONS[:3], "x", CAPTIONS[4]]),
        {},
        "clip '3' has a caption that is empty or not a string: x",
    )
    yield (audio, text[:8], [*CAPTIONS[:3], [], CAPTIONS[4]]), {}, "no clip without"
    yield (audio, text, [*CAPTIONS[:3], [" "], CAPTIONS[4]]), {}, "clip '3' has a caption that is empty"
    yield (audio[:0], text[:0], []), {}, "no clips"


def test_bad_tensors_are_named(tmp_path, audio, text):
    for arguments, named, message in bad_tensors(audio, text):
        with pytest.raises(ValueError, match=message):
            PairedEmbeddings.write(tmp_path / "pairs", *arguments, **named)
    with pytest.raises(ValueError, match="shard_clips must be at least 1"):
        PairedEmbeddings.write(tmp_path / "pairs", audio, text, CAPTIONS, shard_clips=0)
    for clip in (CLIP.flip(0), CLIP + 1):
        with pytest.raises(ValueError, match="clip must run from 0 to 4"):
            PairedEmbeddings.from_tensors(audio, text, clip=clip)
    with pytest.raises(ValueError, match="disagree"):
        PairedEmbeddings.from_tensors(audio, text, CAPTIONS, CLIP.flip(0))


def test_pairs_without_captions(audio, text):
    pairs = PairedEmbeddings.from_tensors(audio, text[:5])
    assert pairs.clip.tolist() == [0, 1, 2, 3, 4] and pairs.select([3]).ids == ["3"]
    with pytest.raises(ValueError, match="no captions"):
        _ = pairs.select([3]).captions


def test_bad_selections(pairs):
    for clips, message in (([5], "between 0 and 4"), ([-1], "between"), ([], "between"), ([1, 1], "once")):
        with pytest.raises(ValueError, match=message):
            pairs.select(clips)


def without_checksums(header: dict) -> dict:
    """As an earlier version wrote it."""
    return header | {"shards": [{name: entry[name] for name in ("clips", "captions")} for entry in header["shards"]]}


def swap(one: Path, other: Path) -> None:
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])


def swapped_lines(folder: Path) -> None:
    path = folder / "captions-00000-of-00002.jsonl"
    first, second, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([second, first, *others]))


def swapped_shards(folder: Path) -> None:
    for kind, end in (("embeddings", "safetensors"), ("captions", "jsonl")):
        swap(folder / f"{kind}-00000-of-00002.{end}", folder / f"{kind}-00001-of-00002.{end}")


def shifted_tensors(folder: Path) -> None:
    path = folder / "embeddings-00000-of-00002.safetensors"
    save_file({name: rows.roll(1, 0) if name == "text" else rows for name, rows in load_file(path).items()}, path)


@pytest.mark.parametrize("damage", [swapped_lines, swapped_shards, shifted_tensors])
def test_rows_are_tied_to_their_captions(tmp_path, damage):
    folder, draw = tmp_path / "pairs", torch.Generator().manual_seed(0)
    rows = torch.randn(4, 6, generator=draw)
    PairedEmbeddings.write(folder, rows, rows.flip(0), [["rain"], ["wind"], ["a dog"], ["a bell"]], shard_clips=2)
    damage(folder)
    with pytest.raises(ValueError, match=r"0000.-of-00002\.\w+ is damaged, or does not fit header.json: its SHA-256"):
        PairedEmbeddings.open(folder)
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(without_checksums(header)))
    assert PairedEmbeddings.open(folder).clips == 4  # a folder of an earlier version, which cannot tell


def test_any_bit_that_flips_is_seen(tmp_path, audio, text):
    folder = tmp_path / "pairs"
    PairedEmbeddings.write(folder, audio, text, CAPTIONS, IDS)
    draw = random.Random(0)
    for path in (folder / "embeddings-00000-of-00001.safetensors", folder / "captions-00000-of-00001.jsonl"):
        whole = path.read_bytes()
        for _ in range(40):
            flipped = bytearray(whole)
            flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=path.name):
                PairedEmbeddings.open(folder)
        path.write_bytes(whole)
    assert len(PairedEmbeddings.open(folder)) == len(text)


def test_captions_are_checked_even_where_rows_are_not(tmp_path, audio, text):
    folder = tmp_path / "pairs"
    PairedEmbeddings.write(folder, audio, text, CAPTIONS, IDS)
    path = folder / "captions-00000-of-00001.jsonl"
    path.write_text(path.read_text().replace("bell", "horn"))
    with pytest.raises(ValueError, match=r"captions-00000-of-00001\.jsonl is damaged, or does not fit"):
        PairedEmbeddings.open(folder, check_values=False)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([["rain", "a shower"], ["wind"]], "clip '0' has 2 captions, but 1 rows of text"),
        ([["rain"], "wind"], "line 2 is damaged: expected an id and a list of captions"),
        ([["rain"], [3]], "clip '1' has a caption that is empty or not a string"),
    ],
)
def test_without_checksums_captions_are_counted(tmp_path, captions, message):
    folder = tmp_path / "pairs"
    PairedEmbeddings.write(folder, torch.eye(2), torch.eye(2), [["rain"], ["wind"]])
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(without_checksums(header)))
    lines = (json.dumps({"id": str(row), "captions": of_clip}) for row, of_clip in enumerate(captions))
    (folder / "captions-00000-of-00001.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"captions-00000-of-00001\.jsonl.*{message}"):
        PairedEmbeddings.open(folder)


def test_millions_of_shards_in_a_header_are_not_believed(tmp_path, audio, text):
    folder = tmp_path / "pairs"
    PairedEmbeddings.write(folder, audio, text, CAPTIONS, IDS)
    header = json.loads((folder / "header.json").read_text())
    header |= {"shards": header["shards"] * 10_000, "clips": header["clips"] * 10_000, "captions": 90_000}
    (folder / "header.json").write_text(json.dumps(header))
    with pytest.raises(FileNotFoundError, match="embeddings-00000-of-10000"):
        PairedEmbeddings.open(folder)


def test_bad_folders_are_named(tmp_path, audio, text):
    with pytest.raises(FileNotFoundError, match="no header"):
        PairedEmbeddings.open(tmp_path)
    folder = tmp_path / "pairs"
    PairedEmbeddings.write(folder, audio, text, CAPTIONS, IDS)
    header_file, shard_file = folder / "header.json", folder / "embeddings-00000-of-00001.safetensors"
    header, tensors = json.loads(header_file.read_text()), load_file(shard_file)
    for change, message in (
        ({"format_version": 2}, "format_version 2, this version .* reads 1"),
        ({"dim": 7}, r"audio is \('float32', 5, 6\), but header.json says \('float32', 5, 7\)"),
        ({"dtype": "float16"}, "header.json says .'float16'"),
        ({"clips": 6}, "another number of clips than the 6 announced"),
    ):
        header_file.write_text(json.dumps(header | change))
        with pytest.raises(ValueError, match=message):
            PairedEmbeddings.open(folder)
    header_file.write_text(json.dumps(without_checksums(header)))
    save_file(tensors | {"text": tensors["text"].index_fill(0, torch.tensor([2]), math.inf)}, shard_file)
    with pytest.raises(ValueError, match="a caption of clip 'rain'"):
        PairedEmbeddings.open(folder)
    shard_file.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"embeddings-00000-of-00001.safetensors is damaged"):
        PairedEmbeddings.open(folder, check_values=False)
    shard_file.unlink()
    with pytest.raises(FileNotFoundError, match="embeddings-00000"):
        PairedEmbeddings.open(folder)


def test_a_sample_is_always_the_same_and_spread_over_all_clips():
    rows = torch.eye(100)
    pairs = PairedEmbeddings.from_tensors(rows, rows)
    sample = pairs.sample(20)
    chosen = sample.audio.argmax(-1)
    assert torch.equal(chosen, pairs.sample(20).audio.argmax(-1)) and torch.equal(chosen, chosen.sort().values)
    assert len(chosen.unique()) == 20 and chosen[0] < 25 and chosen[-1] > 75
    assert torch.equal(sample.audio, sample.text) and pairs.sample(100) is pairs
