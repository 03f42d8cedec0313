"""Projection decoding: an average of the training captions, the closest counting most (DeCap, Li et al., ICLR 2023)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedForm
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.data.embeddings import PairedEmbeddings

TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.1)  # .01 is DeCap's
BLOCK_ROWS = 16384  # captions that are looked at together
BLOCK_QUERIES = 1024
SAMPLE = 1024  # clips that the temperature is chosen on


class Memory(ClosedForm):
    """softmax(cos(x, bank) / temperature) bank, unit-normed; the bank holds every training caption.

    The temperature is the one of `TEMPERATURES` whose projections are closest to the captions of clips whose own
    captions are left out. A million captions of dim 512 take 2 GB; a call looks at a block at a time.
    """

    name = "memory"
    data_sized = ("bank",)
    bank: Tensor  # (captions, dim), unit norm
    temperature: Tensor

    def __init__(self, config: DimConfig):
        super().__init__(config)
        self.register_buffer("bank", torch.zeros(0, config.dim))
        self.register_buffer("temperature", torch.tensor(torch.nan))

    @property
    def training_rows(self) -> int:
        return len(self.bank)

    def solve(self, pairs: PairedEmbeddings) -> None:
        if pairs.clips < 2:
            raise ValueError("the pairs are of one clip: with its captions left out there is nothing to choose on")
        bank = normalize(pairs.text.float(), dim=-1)
        chosen = torch.randperm(pairs.clips, generator=torch.Generator().manual_seed(0))[:SAMPLE]
        ends = torch.bincount(pairs.clip, minlength=pairs.clips).cumsum(0)
        own = torch.stack([torch.searchsorted(pairs.clip, chosen), ends[chosen]], dim=-1)
        queries = normalize(pairs.audio[chosen].float(), dim=-1)
        cosines = {}
        for temperature in TEMPERATURES:
            projected = normalize(project(queries, bank, temperature, hidden=own), dim=-1)
            cosines[temperature] = (projected * bank[own[:, 0]]).sum().item()
        self.metadata["temperature"] = best = max(cosines, key=cosines.__getitem__)
        self.bank = bank.to(self.bank)
        self.temperature.fill_(best)

    def move(self, x: Tensor) -> Tensor:
        blocks = normalize(x, dim=-1).reshape(-1, self.dim).split(BLOCK_QUERIES)
        projected = [project(rows, self.bank.to(x), self.temperature.to(x)) for rows in blocks]
        return normalize(torch.cat(projected), dim=-1).reshape(x.shape)


def project(x: Tensor, bank: Tensor, temperature: Tensor | float, hidden: Tensor | None = None) -> Tensor:
    """softmax(x bank^T / temperature) bank for unit rows x (n, dim), without the n x bank matrix: a running softmax.

    `hidden` (n, 2) leaves a range [first, last) of the bank out for each row (Milakov and Gimelshein, 2018).
    """
    top = x.new_full((len(x), 1), -1) / temperature  # no cosine is lower
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
