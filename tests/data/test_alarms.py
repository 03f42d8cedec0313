"""Alarms: each fault is named, and sound pairs raise none."""

import pytest
import torch

from dlink_adapter.data import alarms
from dlink_adapter.data.alarms import doubts, faults
from dlink_adapter.data.embeddings import PairedEmbeddings


def sides(clips, dim=32, seed=0):
    """Audio (clips, dim) that tells its text, up to noise."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randn(clips, dim, generator=draw)
    turn, noise = torch.randn(dim, dim, generator=draw), torch.randn(clips, dim, generator=draw)
    return text @ turn + 2 * noise, text


def shifted(text, first, last, by):
    text = text.clone()
    text[first:last] = text[first:last].roll(by, 0)
    return text


@pytest.mark.parametrize("clips", [3, 60, 400])
def test_sound_pairs_raise_none(clips):
    for seed in range(5):
        audio, text = sides(clips, seed=seed)
        captions = [[f"sound {clip}"] for clip in range(clips)]
        for pairs in ((audio, text), (audio, text[:1] + 0.02 * text)):
            pairs = PairedEmbeddings.from_tensors(*pairs, captions)
            assert faults(pairs) + doubts(pairs) == []


@pytest.mark.parametrize(("clips", "first", "last", "by"), [(60, 20, 45, 1), (400, 0, 400, -2), (400, 300, 340, 3)])
def test_shifted_captions(clips, first, last, by):
    audio, text = sides(clips)
    (found,) = doubts(PairedEmbeddings.from_tensors(audio, shifted(text, first, last, by)))
    assert f"seem to be shifted by {by:+d}: " in found
    start, end = (int(word) for word in found.replace(":", "").split() if word.isdigit() and word != str(by))
    assert abs(start - first) < 12 and abs(end - last) < 12


def test_many_clips_are_looked_at_in_stretches(monkeypatch):
    monkeypatch.setattr(alarms, "MOST", 512)
    audio, text = sides(2048)
    (found,) = doubts(PairedEmbeddings.from_tensors(audio, shifted(text, 1000, 2048, 1)))
    start = int(found.split("clips ")[1].split()[0])
    assert 960 < start < 1100 and "shifted by +1" in found  # a clip of the pairs, not of the stretches


def test_clips_in_the_order_of_their_classes_are_not_shifted():
    """Neighbours with the same caption are as close as the own one."""
    audio, text = sides(400)
    text = text[::40].repeat_interleave(40, 0)
    assert doubts(PairedEmbeddings.from_tensors(audio + 20 * text, text)) == []


def test_collapsed_sides():
    audio, text = sides(50)
    (found,) = faults(PairedEmbeddings.from_tensors(audio[:1] + 1e-3 * audio, text))
    assert "the audio embeddings have collapsed (variance " in found and "weights not loaded?" in found
    (found,) = faults(PairedEmbeddings.from_tensors(audio, text[:1].expand(50, -1)))
    assert "the text embeddings have collapsed (variance " in found and "are all captions the same" in found


def test_captions_that_are_not_those_of_the_text_embeddings():
    audio, text = sides(40)
    captions = [[f"sound {clip % 10}"] for clip in range(40)]
    same = text[:10].repeat(4, 1)
    assert doubts(PairedEmbeddings.from_tensors(audio, same, captions)) == []
    (found,) = doubts(PairedEmbeddings.from_tensors(same, text, captions))
    assert found.startswith("audio and text seem to be swapped: of 30 captions that occur again, 100% have another")
    (found,) = doubts(PairedEmbeddings.from_tensors(audio, text, captions))
    assert found.startswith("captions and text embeddings do not match: of 30 captions")
