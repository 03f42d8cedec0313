"""Which captions are right, by the embeddings of the encoder's text tower."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

AS_NEAR = 0.95  # share of the references that would pass


def right_captions(said: Tensor, text: Tensor, clip: Tensor) -> Tensor:
    """Which captions are as near to a reference of their clip as `AS_NEAR` of the references are to another of theirs.

    Args:
        said: (n, dim) embeddings of a caption for each clip.
        text: (m, dim) embeddings of the references.
        clip: (m,) the clip of each reference, in order.

    Returns:
        (n,) bool.

    Raises:
        ValueError: no clip has a second reference, so that nothing says how near is near.
    """
    groups = normalize(text.float(), dim=-1).split(torch.bincount(clip, minlength=len(said)).tolist())
    nearest = torch.stack([(own @ one).max() for own, one in zip(groups, normalize(said.float(), dim=-1), strict=True)])
    among = [(own @ own.T).fill_diagonal_(-1).amax(-1) for own in groups if len(own) > 1]
    if not among:
        raise ValueError("every clip has one reference: right captions are told by how near references are to others")
    return nearest >= torch.cat(among).quantile(1 - AS_NEAR)
