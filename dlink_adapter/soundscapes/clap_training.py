"""Training of the small CLAP with the symmetric InfoNCE loss (Wu et al., ICASSP 2023), by `transformers.Trainer`.

The modality gap comes from that loss: a high logit scale keeps audio and text embeddings apart (Liang et al., NeurIPS
2022, section 4). No offset is added to either modality. Needs `pip install "dlink-adapter[clap,llm]"`.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from dlink_adapter.files import appearing_folder
from dlink_adapter.soundscapes.small_clap import new_small_clap, train_tokenizer
from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.processes import process_state
from dlink_adapter.training.trainer import run_trainer

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor, ClapModel

SILENCE_DB = -100.0  # where the log-mel is floored
GAIN_DB = 3.0
EQUALISER_DB = 3.0  # standard deviation at five frequencies
SHIFT = 25  # frames


def train_small_clap(
    mels: Tensor,
    captions: Sequence[Sequence[str]],
    extractor: "ClapFeatureExtractor",
    out: str | Path,
    *,
    config: TrainerConfig,
    width: int = 64,
    logit_scale: float = 100.0,
    checkpoints: str | Path | None = None,
    progress: bool = True,
) -> None:
    """Train a small CLAP and save it, in float16, as a folder that `ClapModel`, `AutoProcessor` and `ClapEncoder` load.

    The folder appears only when it is complete; the caller's random state does not change. The other captions of a
    batch are the negatives, so that one process on one device takes the whole batch.

    Args:
        mels: `(clips, 1, frames, mels)` features of the clips, from `log_mels` or `render_mels`.
        captions: captions of each clip, one of which is drawn whenever the clip is seen.
        extractor: the `feature_extractor` that made them, which is saved too.
        out: folder to create; an existing one must be empty.
        config: settings of the training; its seed also seeds the initial weights.
        width: see `new_small_clap`.
        logit_scale: inverse temperature, which is not trained: what is learned closes the gap, and CLAP's 14 leaves
            almost none in a model this small.
        checkpoints: folder for checkpoints and the log; a training that was killed goes on from there.
        progress: shows a progress bar on a terminal.

    Raises:
        ValueError: not a list of captions for each clip, or a batch that would be divided.
        FileExistsError: `out` exists and is not empty.
    """
    described = sum(not isinstance(of, str) and len(of) > 0 for of in captions)
    if mels.ndim != 4 or not len(mels) == len(captions) == described:
        raise ValueError(
            f"expected mels (clips, 1, frames, mels) and a list of captions for each clip, got {tuple(mels.shape)} and "
            f"lists for {described} clips"
        )
    _check_one_batch(config)
    with torch.random.fork_rng(), appearing_folder(out) as folder:
        torch.manual_seed(config.seed)
        tokenizer = train_tokenizer(chain(*captions), folder)
        model = new_small_clap(len(tokenizer), logit_scale=logit_scale, width=width)
        rows = [{"mel": mel, "captions": of} for mel, of in zip(mels, captions, strict=True)]
        run_trainer(_Contrastive(model), rows, _Collator(tokenizer), config, out=checkpoints, progress=progress)
        for part in (model.cpu().half(), extractor, tokenizer):
            part.save_pretrained(folder)


def _check_one_batch(config: TrainerConfig) -> None:
    """The negatives of a clip are its batch: refuse whatever would train on parts of it."""
    parts = process_state().num_processes * max(1, torch.cuda.device_count()) * config.gradient_accumulation
    if parts > 1 or config.deepspeed or config.fsdp:
        raise ValueError(
            f"a batch would be divided into {parts} parts, each with fewer negatives: train in one process, on one GPU "
            "(CUDA_VISIBLE_DEVICES=0), without gradient accumulation, DeepSpeed or FSDP"
        )


class _Contrastive(nn.Module):
    """A ClapModel whose forward returns the loss, of float32 logits: bfloat16 would round them by up to .25."""

    def __init__(self, clap: "ClapModel"):
        super().__init__()
        self.clap = clap
        clap.logit_scale_a.requires_grad_(False)
        clap.logit_scale_t.requires_grad_(False)
        # The batch norm is HTSAT's first layer; freezing it spares the backward pass through it and the resizing.
        clap.audio_model.audio_encoder.batch_norm.requires_grad_(False)

    def forward(self, input_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        output = self.clap(input_features=input_features, input_ids=input_ids, attention_mask=attention_mask)
        audio, text = output.audio_embeds.float(), output.text_embeds.float()
        with torch.autocast(audio.device.type, enabled=False):
            logits = self.clap.logit_scale_a.exp() * audio @ text.T
        return {"loss": contrastive_loss(logits)}


class _Collator:
    """Collates augmented features and a caption of each clip; what it draws depends on the first row's seed alone."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(rows[0]["seed"])
        texts = [of[int(torch.randint(len(of), (), generator=draw))] for of in (row["captions"] for row in rows)]
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {"input_features": augment(torch.stack([row["mel"] for row in rows]).float(), draw), **tokens}


def contrastive_loss(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE over a batch of n pairs with `(n, n)` logits, audio by text (CLAP, equation 2)."""
    pair = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, pair) + cross_entropy(logits.T, pair)) / 2


def augment(mels: Tensor, draw: torch.Generator) -> Tensor:
    """Random gain and equaliser, circular time shift, time and frequency mask of `(n, 1, frames, mels)` in dB."""
    n, _, frames, bins = mels.shape
    curve = interpolate(EQUALISER_DB * torch.randn(n, 1, 5, generator=draw), bins, mode="linear", align_corners=True)
    gain = GAIN_DB * (2 * torch.rand(n, 1, 1, generator=draw) - 1)
    mels = (mels + (gain + curve).unsqueeze(2)).clamp_min(SILENCE_DB)
    shifted = (torch.arange(frames) + torch.randint(-SHIFT, SHIFT + 1, (n, 1), generator=draw)) % frames
    mels = mels.gather(2, shifted[:, None, :, None].expand_as(mels))
    mean = mels.mean(dim=(2, 3), keepdim=True)
    moment, band = _random_span(n, frames, frames // 12, draw), _random_span(n, bins, bins // 8, draw)
    return torch.where(moment[:, None, :, None] | band[:, None, None, :], mean, mels)


def _random_span(n: int, size: int, longest: int, draw: torch.Generator) -> Tensor:
    """`(n, size)` bool, true on one contiguous span of at most `longest` in each row."""
    length = torch.randint(0, longest + 1, (n, 1), generator=draw)
    start = (torch.rand(n, 1, generator=draw) * (size - length + 1)).long()
    place = torch.arange(size)
    return (place >= start) & (place < start + length)
