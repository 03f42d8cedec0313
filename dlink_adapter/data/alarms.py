"""Pairs whose rows are sound and the whole is not: collapsed, swapped, or in another order than their captions."""

from itertools import chain, count, takewhile
from math import log

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from dlink_adapter.data.embeddings import PairedEmbeddings

MOST = 4096  # clips that are looked at, in stretches
BLOCK = 64  # clips in a stretch
COMPONENTS = 64  # of text, which tell its rows apart
OFFSETS = (-3, -2, -1, 1, 2, 3)  # rows by which captions may be shifted
SHORTEST = 24  # rows in a shifted run
COLLAPSED = 1e-4  # variance of unit-norm rows, of which embeddings of one thing are left with less
SAME = 0.99  # cosine above which two embeddings are of the same caption; one encoder differs by rounding alone


def faults(pairs: PairedEmbeddings) -> list[str]:
    """Reasons why nothing can be learned from pairs: one side has the same embedding everywhere."""
    rows = _in_stretches(pairs.clips)
    audio, text = _sides(pairs, rows)
    found = []
    for side, values, question in (
        ("audio", audio, "are all files the same, or the encoder's weights not loaded?"),
        ("text", text, "are all captions the same, or the tokenizer's files not there?"),
    ):
        variance = 1 - values.mean(0).square().sum().item()
        if len(values) > 2 and variance < COLLAPSED:
            found.append(
                f"the {side} embeddings have collapsed (variance {variance:.1e} of unit-norm rows): {question}"
            )
    return found


def doubts(pairs: PairedEmbeddings) -> list[str]:
    """Reasons to look at pairs again: captions that seem to be shifted, or to belong to other embeddings.

    A shift is looked for behind a ridge regression from audio to text. For the clips of every other block, fitted on
    the rest, the text a few rows on or back must not be closer than the own one, in any run of rows; nor may all rows
    be closer where it is fitted on such texts. The measure is Student's t of the difference, below 0 for sound pairs.
    """
    rows = _in_stretches(pairs.clips)
    found = _repeated_captions(pairs.select(rows)) if pairs.has_captions else []
    if len(rows) >= 2 * SHORTEST:
        t, offset, first, last = max(_runs(*_sides(pairs, rows)))
        if t > _limit(len(rows)):
            found.append(
                f"the captions of clips {rows[first]} to {rows[last]} seem to be shifted by {offset:+d}: that text is "
                f"closer to their audio than their own is (t = {t:.1f}, where sound pairs have less than 0): compare "
                "the order of captions and clips"
            )
    return found


def _limit(clips: int) -> float:
    """Above the largest t of 20 sets of random pairs: 4.4 of 60, 4.9 of 500, 6.5 of 4,000."""
    return 2.7 + 0.5 * log(clips)


def _in_stretches(clips: int) -> Tensor:
    """The clips to look at: all of them, or every so many blocks, as a shift is seen among neighbours."""
    blocks = torch.arange(clips).split(BLOCK)
    return torch.cat(blocks[:: -(-clips // MOST)])


def _sides(pairs: PairedEmbeddings, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The unit-norm audio and first captions of these clips."""
    chosen = pairs.select(rows)
    return normalize(chosen.audio.float(), dim=-1), normalize(chosen.first_captions().float(), dim=-1)


def _runs(audio: Tensor, text: Tensor) -> list[tuple[float, int, int, int]]:
    """For each offset and length of runs, the run with the largest t: t, offset, first and last row."""
    block = torch.arange(len(audio)) // min(BLOCK, len(audio) // 4)
    audio, text = audio - audio.mean(0), text - text.mean(0)
    text = text @ torch.linalg.eigh(text.T @ text).eigenvectors[:, -COMPONENTS:]
    moved = {offset: text.roll(-offset, 0) for offset in (0, *OFFSETS)}
    told = _told(audio, moved, block)
    own, found = (told[0] * text).sum(-1), []
    for offset in OFFSETS:
        # Where all are shifted, the ridge has learned nothing from own texts, and one fitted on the others has.
        t, _ = _largest_t((told[offset] * moved[offset]).sum(-1) - own, len(own))
        found.append((t / 2, offset, 0, len(own) - 1))  # as its rows share two fits, which widens t
        row = torch.arange(max(0, -offset), len(audio) - max(0, offset))
        row = row[block[row] == block[row + offset]]  # else that text may have been fitted on
        closer = (told[0][row] * text[row + offset]).sum(-1) - own[row]
        for length in _lengths(len(row)):
            t, first = _largest_t(closer, length)
            found.append((t, offset, int(row[first]), int(row[first + length - 1])))
    return found


def _told(audio: Tensor, texts: dict[int, Tensor], block: Tensor) -> dict[int, Tensor]:
    """What ridge regressions say of each row's text, fitted on every other block. The penalty is a mean eigenvalue."""
    told = {name: torch.empty_like(text) for name, text in texts.items()}
    for held_out in (block % 2 == 0, block % 2 == 1):
        fitted = audio[~held_out]
        gram = fitted.T @ fitted
        gram.diagonal().add_(gram.trace() / len(gram))
        factor = torch.linalg.cholesky(gram)
        for name, text in texts.items():
            told[name][held_out] = audio[held_out] @ torch.cholesky_solve(fitted.T @ text[~held_out], factor)
    return told


def _largest_t(values: Tensor, length: int) -> tuple[float, int]:
    """The largest Student's t of a run of so many values, and where the run starts."""
    mean, square = (_run_means(part, length) for part in (values.double(), values.double().square()))
    t = mean / ((square - mean.square()).clamp(min=1e-12) / length).sqrt()
    return t.max().item(), int(t.argmax())


def _lengths(rows: int) -> list[int]:
    """Lengths of runs, each four times the one before, and all rows."""
    return [*takewhile(lambda length: length < rows, (SHORTEST * 4**power for power in count())), rows]


def _run_means(values: Tensor, length: int) -> Tensor:
    """The mean of each run of so many values, by the difference of two sums."""
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return (sums[length:] - sums[:-length]) / length


def _repeated_captions(pairs: PairedEmbeddings) -> list[str]:
    """Whether captions that occur again have another embedding each time."""
    first: dict[str, int] = {}
    captions = chain.from_iterable(pairs.captions)
    again = [(first[caption], row) for row, caption in enumerate(captions) if first.setdefault(caption, row) != row]
    if not again:
        return []
    one, other = torch.tensor(again).unbind(1)
    audio, text = (rows.float() for rows in pairs.tensors())
    same_text, same_audio = (cosine_similarity(rows[one], rows[other]) > SAME for rows in (text, audio))
    share = 1 - same_text.float().mean().item()
    if share < 0.5:
        return []
    what = (
        "audio and text seem to be swapped"
        if same_audio.float().mean() > 0.5
        else "captions and text embeddings do not match"
    )
    return [f"{what}: of {len(again)} captions that occur again, {share:.0%} have another text embedding than before"]
