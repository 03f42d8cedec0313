"""The two losses of the bridge. Both compare a reconstruction with the text embedding, whatever went in.

    loss = ||D(audio_t) - text||^2 + w_text ||D(text_t) - text||^2 + w_topology ||S(D(audio_t)) - S(text)||^2

x_t is x noised to a random depth t, D the denoiser, S(z) the matrix of cosines between the rows of z.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def denoising_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the reconstruction (n, dim): the x0 form of Ho et al., 2020, with one weight for every t."""
    return (predicted - text).square().mean()


def topology_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """How far the reconstructions (n, dim) are from lying to each other as the texts do (Diffusion-Link's idea).

    Squared difference of the two cosine matrices, summed over the other rows and averaged over the rows, so that its size
    does not depend on the batch being large. Zero for a batch of one.
    """
    difference = _cosines(predicted) - _cosines(text)
    off_diagonal = difference - torch.diag_embed(difference.diagonal())
    return off_diagonal.square().mean()


def _cosines(x: Tensor) -> Tensor:
    x = normalize(x, dim=-1)
    return x @ x.mT
