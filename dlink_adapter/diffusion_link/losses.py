"""The losses of Diffusion-Link. All compare a reconstruction with the text embedding, whatever was noised.

    loss = ||D(audio_t) - text||^2                      denoise_audio
         + w_text ||D(text_t) - text||^2                denoise_text
         + w_topology ||S(D(audio_t)) - S(text)||^2     topology

x_t is x noised to its own random timestep, D the denoiser, S(z) the matrix of cosines between the rows of z. The terms
are the paper's idea; their exact form and their weights are ours, as the paper's are not public.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.diffusion_link.config import NetworkConfig


def link_loss(from_audio: Tensor, from_text: Tensor, text: Tensor, config: NetworkConfig) -> dict[str, Tensor]:
    """`loss` and its three terms, for reconstructions (n, dim) from audio and from text of the clean text (n, dim)."""
    audio_term, text_term = denoising_loss(from_audio, text), denoising_loss(from_text, text)
    topology = topology_loss(from_audio, text)
    loss = audio_term + config.text_weight * text_term + config.topology_weight * topology
    return {"loss": loss, "denoise_audio": audio_term, "denoise_text": text_term, "topology": topology}


def denoising_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """Mean squared error of the reconstruction (n, dim): the x0 form of Ho et al., 2020, one weight for every t."""
    return (predicted - text).square().mean()


def topology_loss(predicted: Tensor, text: Tensor) -> Tensor:
    """Squared difference of the cosines between rows of the reconstruction (n, dim) and between those of the text.

    It is averaged over all pairs of rows; the diagonals agree.
    """
    return (_cosines(predicted) - _cosines(text)).square().mean()


def _cosines(x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        x = normalize(x.float(), dim=-1)
        return x @ x.mT
