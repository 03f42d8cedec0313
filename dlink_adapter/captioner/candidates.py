"""Several captions of a clip: beams or samples of the language model, or draws of the bridge."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from dlink_adapter.captioner.decoding import Marginal, RowSampling
from dlink_adapter.captioner.prefix_model import PrefixModel

Source = Literal["beams", "sampling", "draws", "draws_and_sampling"]
EncodeText = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Candidates:
    """k captions for each of n clips, and what there is to choose among them by.

    Args:
        captions: n lists of k.
        heard: (n, dim) unit-norm bridged audio.
        log_likelihood: (n, k) of the captions by the language model, in nats.
        embedding: (n, k, dim) unit-norm embeddings of the captions by the encoder's text tower, if there is one.
    """

    captions: list[list[str]]
    heard: Tensor
    log_likelihood: Tensor
    embedding: Tensor | None = None

    @property
    def said(self) -> Tensor:
        """`embedding`. Raises ValueError where there is none."""
        if self.embedding is None:
            raise ValueError("the captioner names no encoder to embed captions with: choose by mbr or likelihood")
        return self.embedding

    @property
    def match(self) -> Tensor:
        """(n, k) cosines of what is said and what is heard. Raises ValueError without embeddings of the captions."""
        return torch.einsum("nd,nkd->nk", self.heard, self.said)


def make_candidates(
    captioner: PrefixModel,
    embedding: Tensor,
    count: int,
    *,
    source: Source = "beams",
    encode_text: EncodeText | None = None,
    seed: int | Sequence[int] = 0,
    batch_size: int = 64,
    **options: Any,
) -> Candidates:
    """Caption embeddings (n, dim) of audio `count` times each.

    Args:
        captioner: the captioner.
        embedding: of audio, by the captioner's encoder.
        count: k, the candidates of a clip.
        source: beams: of one search; sampling: from the language model; draws: from the bridge, each with noise of its
            own, decoded greedily; draws_and_sampling: both. A bridge without noise gives equal draws.
        encode_text: the encoder's text tower.
        seed: of draws and samples, which depend on a clip's place in `embedding`, and not on the batch; or one for each
            clip, where they are captioned in several calls.
        batch_size: captions in the making at a time.
        options: as for `generate`.

    Raises:
        ValueError: an unknown source, or fewer than one candidate.
    """
    if source not in SOURCES or count < 1:
        raise ValueError(f"{count} candidates from {source!r}: expected at least one, from {', '.join(SOURCES)}")
    captions = [caption for rows, draws in _batches(captioner, embedding, count, seed, batch_size)
                for caption in SOURCES[source](captioner, rows, count, draws, **options)]  # fmt: skip
    heard = captioner.bridge.map_rows(embedding)
    likely = captioner.log_likelihood(heard.repeat_interleave(count, 0), captions, batch_size=batch_size)
    said = None if encode_text is None else _embedded(captions, encode_text, heard.shape[1]).unflatten(0, (-1, count))
    grouped = [captions[start : start + count] for start in range(0, len(captions), count)]
    return Candidates(grouped, heard, likely.unflatten(0, (-1, count)), said)


def _embedded(captions: list[str], encode_text: EncodeText, dim: int) -> Tensor:
    """Embeddings of captions, zero of those without a word, which encoders refuse."""
    embeddings, worded = torch.zeros(len(captions), dim), [row for row, caption in enumerate(captions) if caption]
    embeddings[worded] = encode_text([captions[row] for row in worded]).float()
    return embeddings


def marginal_captions(
    captioner: PrefixModel, embedding: Tensor, draws: int, *, seed: int | Sequence[int] = 0, batch_size: int = 64
) -> list[str]:
    """One caption for each embedding (n, dim), by next-token probabilities averaged over draws of the bridge."""
    captions = []
    for rows, generators in _batches(captioner, embedding, draws, seed, batch_size):
        again = rows.repeat_interleave(draws, 0)
        merge = [Marginal(draws)]
        captions += captioner.generate(
            again, generator=generators, samples=1, logits_processor=merge, batch_size=len(again)
        )[::draws]
    return captions


def seeds_from(seed: int, first: int, clips: int) -> list[int]:
    """A seed for each of so many clips, of which the first is at this place among all."""
    return [seed * 1_000_003 + place for place in range(first, first + clips)]


def _batches(
    captioner: PrefixModel, embedding: Tensor, count: int, seed: int | Sequence[int], size: int
) -> Iterator[tuple[Tensor, list[Generator]]]:
    """Some rows at a time, and `count` generators for each."""
    device = next(captioner.projector.parameters()).device
    seeds = seeds_from(seed, 0, len(embedding)) if isinstance(seed, int) else seed
    for rows in torch.arange(len(embedding)).split(max(1, size // count)):
        pairs = [(seeds[row], candidate) for row in rows.tolist() for candidate in range(count)]
        drawn = [int(np.random.SeedSequence(pair).generate_state(1)[0]) for pair in pairs]
        yield embedding[rows], [Generator(device).manual_seed(of_row) for of_row in drawn]


def _beams(captioner: PrefixModel, rows: Tensor, count: int, generators: list[Generator], **options: Any) -> list[str]:
    options = {"num_beams": count, **options, "num_return_sequences": count}
    found = captioner.generate(rows, batch_size=len(rows), **options)
    return found if count == 1 else list(chain(*found))


def _one_each(
    captioner: PrefixModel,
    rows: Tensor,
    count: int,
    generators: list[Generator],
    *,
    drawn: bool = False,
    sampled: bool = False,
    **options: Any,
) -> list[str]:
    """Caption each row `count` times, from a draw of the bridge, by a sample of the language model, or both."""
    again = rows.repeat_interleave(count, 0)
    if drawn:
        options |= {"generator": generators, "samples": 1}
    if sampled:
        options["logits_processor"] = [*options.get("logits_processor", []), RowSampling(generators)]
    return captioner.generate(again, batch_size=len(again), **options)


SOURCES: dict[str, Callable[..., list[str]]] = {
    "beams": _beams,
    "sampling": partial(_one_each, sampled=True),
    "draws": partial(_one_each, drawn=True),
    "draws_and_sampling": partial(_one_each, drawn=True, sampled=True),
}
