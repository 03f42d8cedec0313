"""The losses of the bridge. All compare a reconstruction with the text embedding, whatever went in.

    loss =   ||D(audio_t) - text||^2                  denoise_audio
           + w_text ||D(text_t) - text||^2            denoise_text
           + w_topology ||S(D(audio_t)) - S(text)||^2 topology
           + w_contrastive InfoNCE(D(audio_t), text)  contrastive

x_t is x noised to a random depth t (text as pseudo-audio, unless the config says otherwise), D the denoiser, S(z) the
matrix of cosines between the rows of z. The first three are Diffusion-Link's ideas; the contrastive one is ours.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

CONTRASTIVE_SCALE = 20.0  # inverse temperature


def denoising_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the reconstruction (n, dim): the x0 form of Ho et al., 2020, one weight for every t."""
    return (predicted - text).square().mean()


def topology_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """How far the reconstructions (n, dim) are from lying to each other as the texts do.

    The squared difference of the two matrices of cosines, averaged over all pairs of rows; the diagonals agree.
    """
    return (_cosines(predicted, predicted) - _cosines(text, text)).square().mean()


def contrastive_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """InfoNCE of each reconstruction (n, dim) against the batch's texts (van den Oord et al., 2018).

    Squared error alone lets what few pairs do not determine shrink to the mean; this keeps different clips apart.
    """
    return cross_entropy(CONTRASTIVE_SCALE * _cosines(predicted, text), torch.arange(len(text), device=text.device))


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return normalize(x.float(), dim=-1) @ normalize(y.float(), dim=-1).mT
