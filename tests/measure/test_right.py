"""Right captions, told by how near references are to one another."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.measure.right import right_captions


def test_a_reference_passes_and_another_clips_does_not():
    draw = torch.Generator().manual_seed(0)
    centre = torch.randn(50, 16, generator=draw)
    clip = torch.arange(50).repeat_interleave(torch.tensor([2, 3] * 25))
    text = normalize(centre[clip] + 0.2 * torch.randn(len(clip), 16, generator=draw), dim=-1)
    said = normalize(centre + 0.2 * torch.randn(50, 16, generator=draw), dim=-1)
    assert right_captions(said, text, clip).float().mean() > 0.8
    assert not right_captions(said.roll(1, 0), text, clip).any()


def test_one_reference_a_clip_is_an_error():
    with pytest.raises(ValueError, match="one reference"):
        right_captions(torch.eye(3), torch.eye(3), torch.arange(3))
