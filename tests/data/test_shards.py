"""Shards on disk: what is read, when the file is mapped, damaged files."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlink_adapter.data.shards import MappedShard, Shard, read_header, shard_files, usable, write_header, write_shard
from dlink_adapter.files import sha256


@pytest.fixture
def shard() -> Shard:
    draw = torch.Generator().manual_seed(0)
    tensors = {"audio": torch.randn(2, 6, generator=draw), "text": torch.randn(3, 6, generator=draw)}
    return Shard({**tensors, "clip": torch.tensor([0, 0, 1])}, (["a", "b"], [["one", "Glocke"], ["three"]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_mapped_shard_is_what_safetensors_reads(tmp_path, shard, dtype):
    shard.tensors |= {name: shard.tensors[name].to(dtype) for name in ("audio", "text")}
    files = shard_files(tmp_path, 0, 1)
    entry = write_shard(shard, *files)
    assert entry == {"clips": 2, "captions": 3, "sha256": [sha256(path) for path in files]}
    mapped, read = MappedShard(*files), load_file(files[0])
    for name in ("audio", "text", "clip"):
        assert torch.equal(mapped.tensors[name], read[name]) and mapped.tensors[name].dtype == read[name].dtype
    assert mapped.lines == shard.lines


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
def test_a_file_is_mapped_while_its_tensors_are_used(tmp_path, shard):
    files = shard_files(tmp_path, 0, 1)
    write_shard(shard, *files)
    mapped, is_mapped = MappedShard(*files), lambda: str(files[0]) in Path("/proc/self/maps").read_text()
    audio = pickle.loads(pickle.dumps(mapped)).tensors["audio"]
    assert is_mapped() and torch.equal(audio, shard.tensors["audio"])
    del audio
    assert not is_mapped() and torch.equal(mapped.tensors["audio"], shard.tensors["audio"])


def test_damaged_files(tmp_path, shard):
    files = shard_files(tmp_path, 0, 1)
    write_shard(shard, *files)
    whole = files[0].read_bytes()
    save_file({"audio": shard.tensors["audio"]}, tmp_path / "other")
    for content in (whole[:-1], whole[:40], b"", (tmp_path / "other").read_bytes()):
        files[0].write_bytes(content)
        with pytest.raises(ValueError, match=r"00000-of-00001.safetensors is damaged"):
            _ = MappedShard(*files).tensors


def test_the_header_counts_the_shards(tmp_path, shard):
    write_header(tmp_path, shard.tensors["audio"].half(), [{"clips": 2, "captions": 3}] * 2, {"rate": 1})
    header = read_header(tmp_path)
    assert (header["clips"], header["captions"], header["dim"], header["dtype"]) == (4, 6, 6, "float16")
    assert header["metadata"] == {"rate": 1}


def test_usable_rows():
    rows = torch.tensor([[1.0, 0], [0, 0], [torch.nan, 1], [torch.inf, 0], [0, -2], [1e-30, 0], [0, 1e30]])
    assert usable(rows).tolist() == [True, False, False, False, True, True, True]


@pytest.mark.parametrize(
    "change",
    [{"dim": "6"}, {"shards": 3}, {"shards": []}, {"shards": [{"clips": 2}]}, {"shards": [2, 3]}, {"metadata": None},
     {"clips": None}, {"dtype": "int64"}, {"dtype": None}],
)  # fmt: skip
def test_a_header_of_another_form_is_named(tmp_path, shard, change):
    write_header(tmp_path, shard.tensors["audio"], [{"clips": 2, "captions": 3}], {})
    path = tmp_path / "header.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        ValueError, match=rf"header.json( is damaged: {next(iter(change))} is|: embeddings are floating)"
    ):
        read_header(tmp_path)
