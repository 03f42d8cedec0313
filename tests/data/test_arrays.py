"""Paired embeddings of numpy arrays and of tensors in training, their digest, the first caption of each clip."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dlink_adapter.data.embeddings import PairedEmbeddings

CAPTIONS = [["a dog", "a barking dog"], ["rain"], ["a bell", "ding", "dong"], ["wind"]]
CLIP = torch.tensor([0, 0, 1, 2, 2, 2, 3])


@pytest.fixture
def audio() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def text() -> Tensor:
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


def test_numpy_arrays(tmp_path, audio, text):
    pairs = PairedEmbeddings.from_tensors(audio.numpy(), text.numpy(), clip=CLIP.numpy().astype(np.int32))
    assert torch.equal(pairs.audio, audio) and torch.equal(pairs.text, text) and torch.equal(pairs.clip, CLIP)
    chosen = pairs.select(np.array([2, 0]))
    assert torch.equal(chosen.text, text[[3, 4, 5, 0, 1]])
    written = PairedEmbeddings.write(tmp_path / "pairs", audio.numpy(), text.numpy(), CAPTIONS)
    assert torch.equal(written.text, text) and written.digest() == pairs.digest()
    with pytest.raises(ValueError, match="disagree"):
        PairedEmbeddings.from_tensors(audio, text, CAPTIONS, CLIP.numpy()[::-1].copy())


def test_tensors_that_need_a_gradient_are_detached(audio, text):
    pairs = PairedEmbeddings.from_tensors(audio.requires_grad_(), text.requires_grad_() * 2, CAPTIONS)
    assert not pairs.audio.requires_grad and not pairs.text.requires_grad and pairs.audio.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_digest_is_that_of_the_rows(tmp_path, monkeypatch, audio, text, dtype):
    audio, text = audio.to(dtype), text.to(dtype)
    pairs = PairedEmbeddings.from_tensors(audio, text, CAPTIONS)
    digest = pairs.digest()
    assert len(digest) == 64 and int(digest, 16) >= 0
    one, several = (pairs.save(tmp_path / str(clips), shard_clips=clips) for clips in (4, 1))
    columns = PairedEmbeddings.from_tensors(
        audio.T.contiguous().T, text, clip=CLIP, ids=list("abcd"), metadata={"a": 1}
    )
    parts = PairedEmbeddings.merge([several.select([0, 1]), several.select([2, 3])])
    for block_rows in (16384, 2):
        monkeypatch.setattr("dlink_adapter.data.shard_rows.BLOCK_ROWS", block_rows)
        assert {same.digest() for same in (one, several, columns, parts)} == {digest}
    assert several.select([1, 3]).digest() == PairedEmbeddings.from_tensors(audio[[1, 3]], text[[2, 6]]).digest()


def test_a_digest_tells_values_order_clips_and_dtype_apart(audio, text):
    pairs, changed = PairedEmbeddings.from_tensors(audio, text, CAPTIONS), text.clone()
    changed[6, 5] = torch.nextafter(changed[6, 5], torch.tensor(9.0))
    different = [
        pairs,
        PairedEmbeddings.from_tensors(audio, changed, CAPTIONS),
        PairedEmbeddings.from_tensors(audio, text[[1, 0, 2, 3, 4, 5, 6]], CAPTIONS),
        PairedEmbeddings.from_tensors(audio, text, clip=torch.tensor([0, 1, 1, 2, 2, 2, 3])),
        PairedEmbeddings.from_tensors(audio.half(), text.half(), CAPTIONS),
        PairedEmbeddings.from_tensors(audio.bfloat16(), text.bfloat16(), CAPTIONS),
        PairedEmbeddings.from_tensors(*(rows.half().view(torch.bfloat16) for rows in (audio, text)), CAPTIONS),
        pairs.select([1, 0, 2, 3]),
        pairs.select([0, 1, 2]),
    ]
    assert len({data.digest() for data in different}) == len(different)


def test_the_first_caption_of_each_clip(tmp_path, audio, text):
    pairs = PairedEmbeddings.from_tensors(audio, text, CAPTIONS)
    for data in (pairs, pairs.save(tmp_path / "pairs", shard_clips=3)):
        assert torch.equal(data.first_captions(), text[[0, 2, 3, 6]])
        assert torch.equal(data.select([3, 2]).first_captions(), text[[6, 3]])
