"""Projection decoding: an average of the training captions, the closest counting most (DeCap, Li et al., ICLR 2023)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge, ClosedFormConfig, clip_runs
from dlink_adapter.bridge.noise import Draws

TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.1)  # .01 is DeCap's
BLOCK_ROWS = 16384  # captions that are looked at together
BLOCK_QUERIES = 1024
SAMPLE = 1024  # clips that the temperature is chosen on


class Memory(ClosedFormBridge):
    """softmax(cos(x, bank) / temperature) bank, unit-normed; the bank holds every training caption.

    The temperature is the one of `TEMPERATURES` whose projections are closest to the captions of clips whose own
    captions are left out. A million captions of dim 512 take 2 GB; a call looks at a block at a time.
    """

    name = "memory"
    data_sized = ("bank",)
    bank: Tensor  # (captions, dim), unit norm
    temperature: Tensor

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.register_buffer("bank", torch.zeros(0, config.dim))
        self.register_buffer("temperature", torch.tensor(torch.nan))

    def fit(self, audio: Tensor, text: Tensor) -> None:
        super().fit(audio, text)
        first, count = clip_runs(audio)
        if len(first) < 2:
            raise ValueError("the pairs are of one clip: with its captions left out there is nothing to choose on")
        self.bank = normalize(text.float(), dim=-1).to(self.bank.device)
        chosen = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:SAMPLE].to(audio.device)
        own = first[chosen].to(self.bank.device)
        hidden = torch.stack([own, own + count[chosen].to(own.device)], dim=-1)
        queries = normalize(audio[first[chosen]].float(), dim=-1).to(self.bank.device)
        cosines = {}
        for temperature in TEMPERATURES:
            projected = project(queries, self.bank, torch.tensor(temperature).to(queries), hidden)
            cosines[temperature] = (normalize(projected, dim=-1) * self.bank[own]).sum().item()
        self.metadata["temperature"] = best = max(cosines, key=cosines.__getitem__)
        self.temperature.fill_(best)

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        x = normalize(x, dim=-1)
        if modality == "text":
            return x
        blocks = x.reshape(-1, self.dim).split(BLOCK_QUERIES)
        projected = [project(rows, self.bank.to(x), self.temperature.to(x)) for rows in blocks]
        return normalize(torch.cat(projected), dim=-1).reshape(x.shape)


def project(x: Tensor, bank: Tensor, temperature: Tensor, hidden: Tensor | None = None) -> Tensor:
    """softmax(x bank^T / temperature) bank for unit rows x (n, dim), without the n x bank matrix: a running softmax.

    `hidden` (n, 2) leaves a range [first, last) of the bank out for each row (Milakov and Gimelshein, 2018).
    """
    top = (-1 / temperature).expand(len(x), 1)  # no cosine is lower
    total, summed = torch.zeros_like(top), torch.zeros_like(x)
    for start, rows in zip(range(0, len(bank), BLOCK_ROWS), bank.split(BLOCK_ROWS), strict=True):
        logits = x @ rows.T / temperature
        if hidden is not None:
            place = torch.arange(start, start + len(rows), device=x.device)
            logits = logits.masked_fill((place >= hidden[:, :1]) & (place < hidden[:, 1:]), float("-inf"))
        higher = torch.maximum(top, logits.amax(-1, keepdim=True))
        weight, kept = (logits - higher).exp(), (top - higher).exp()
        top, total, summed = higher, total * kept + weight.sum(-1, keepdim=True), summed * kept + weight @ rows
    return summed / total
