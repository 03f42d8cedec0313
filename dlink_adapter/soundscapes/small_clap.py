"""A small CLAP trained from scratch on the soundscapes: a real `ClapModel` where no checkpoint can be downloaded.

HTSAT and RoBERTa of 1.3 million parameters together, trained with the symmetric InfoNCE loss of CLAP (Wu et al., ICASSP
2023). The modality gap comes from that loss: a high logit scale keeps audio and text embeddings apart (Liang et al.,
NeurIPS 2022, section 4). No offset is added to either modality. Needs `pip install "dlink-adapter[clap]"`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from dlink_adapter.extract.audio import import_clap_extra, log_mel
from dlink_adapter.files import appearing_folder

if TYPE_CHECKING:
    from transformers import BatchEncoding, ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

VOCABULARY = 1000
MAX_TOKENS = 64
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in RoBERTa's order, so that pad is 1
MEL_BINS = 32
SILENCE_DB = -100.0  # where the log-mel is floored
GAIN_DB = 3.0
SHIFT = 25  # frames


def train_small_clap(
    waveforms: Tensor,
    captions: Sequence[str],
    out: str | Path,
    *,
    seed: int = 0,
    epochs: int = 12,
    rate: int = 16_000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    logit_scale: float = 55.0,
    progress: bool = True,
) -> None:
    """Trains a small CLAP and saves it as a folder that `ClapModel`, `AutoProcessor` and `ClapEncoder` load.

    The folder appears only when it is complete; the caller's random state does not change.

    Args:
        waveforms: `(clips, samples)` mono at `rate` Hz, a whole number of seconds each.
        captions: one caption per clip.
        out: folder to create; an existing one must be empty.
        seed: seed of the initial weights, the order of the clips and the augmentation.
        epochs: passes over the clips.
        rate: sampling rate in Hz.
        batch_size: clips per step; the captions of the other clips are the negatives.
        learning_rate: peak of the one-cycle schedule.
        logit_scale: initial value of the learned inverse temperature. CLAP's 14 gives almost no gap in a model this
            small; 55 gives centroids .6 apart; 100 gives .8 to 1, as in CLIP (Liang et al.), and a weaker encoder.
        progress: shows progress bars on a terminal.

    Raises:
        ValueError: the shapes do not match, or the clips are not whole seconds.
        FileExistsError: `out` exists and is not empty.
    """
    extractor = _feature_extractor(rate, _whole_seconds(waveforms, captions, rate))
    with torch.random.fork_rng(devices=[]), appearing_folder(out) as folder:
        torch.manual_seed(seed)
        tokenizer = _train_tokenizer(captions, folder)
        tokens = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        mels = _log_mels(waveforms, extractor, progress)
        model = _small_model(len(tokenizer), logit_scale)
        _fit(model, mels, tokens, epochs, batch_size, learning_rate, progress)
        for part in (model, extractor, tokenizer):
            part.save_pretrained(folder)


def _whole_seconds(waveforms: Tensor, captions: Sequence[str], rate: int) -> int:
    if waveforms.ndim != 2 or len(waveforms) != len(captions):
        raise ValueError(
            f"expected waveforms (clips, samples) and one caption a clip, got {tuple(waveforms.shape)} and "
            f"{len(captions)} captions"
        )
    seconds, rest = divmod(waveforms.shape[1], rate)
    if rest or not seconds:
        raise ValueError(f"expected whole seconds at {rate} Hz, got {waveforms.shape[1]} samples")
    return seconds


def _feature_extractor(rate: int, seconds: int) -> "ClapFeatureExtractor":
    return import_clap_extra("transformers").ClapFeatureExtractor(
        feature_size=MEL_BINS,
        sampling_rate=rate,
        hop_length=-(-rate * seconds // 500),  # 501 frames, which the model interpolates to the 512 of its input image
        max_length_s=seconds,
        fft_window_size=512,
        frequency_min=50,
        frequency_max=rate // 2,
        truncation="rand_trunc",
    )


def _train_tokenizer(captions: Sequence[str], folder: Path) -> "RobertaTokenizerFast":
    bpe = import_clap_extra("tokenizers").ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        captions, vocab_size=VOCABULARY, min_frequency=2, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    bpe.save_model(str(folder))
    transformers = import_clap_extra("transformers")
    return transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=MAX_TOKENS)


def _log_mels(waveforms: Tensor, extractor: "ClapFeatureExtractor", progress: bool) -> Tensor:
    """The extractor's features of clips of full length, without its Python loop: `(clips, 1, frames, mels)`."""
    filters = torch.from_numpy(extractor.mel_filters_slaney)
    bar = tqdm(waveforms, desc="log-mel", unit="clip", disable=None if progress else True)
    mels = [log_mel(clip, filters, fft_size=extractor.fft_window_size, hop=extractor.hop_length) for clip in bar]
    return torch.stack(mels).unsqueeze(1)


def _small_model(vocabulary: int, logit_scale: float) -> "ClapModel":
    transformers = import_clap_extra("transformers")
    audio = dict(
        window_size=4,
        spec_size=128,
        num_mel_bins=MEL_BINS,
        patch_size=8,  # HTSAT's 4 would take half as long again
        patch_stride=[8, 8],
        patch_embeds_hidden_size=48,
        depths=[1, 2, 1],
        num_attention_heads=[2, 4, 8],
        hidden_size=192,
        hidden_dropout_prob=0.0,
        initializer_factor=3.0,  # the default of 1 is for a wide HTSAT; weights of narrow layers would start too small
    )
    text = dict(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_TOKENS + 2,  # RoBERTa's positions start at pad_token_id + 1
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_factor=2.0,
    )
    return transformers.ClapModel(
        transformers.ClapConfig(
            audio_config=audio, text_config=text, projection_dim=128, logit_scale_init_value=logit_scale
        )
    )


def _fit(
    model: "ClapModel",
    mels: Tensor,
    tokens: "BatchEncoding",
    epochs: int,
    batch_size: int,
    learning_rate: float,
    progress: bool,
) -> None:
    batches = -(-len(mels) // batch_size)
    # The batch norm is HTSAT's first layer; freezing it spares the backward pass through it and the image resizing.
    model.audio_model.audio_encoder.batch_norm.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * batches, pct_start=0.15
    )
    bar = tqdm(total=epochs * batches, desc="small CLAP", unit="step", disable=None if progress else True)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(mels)).tensor_split(batches):
            output = model(
                input_features=augment(mels[rows]),
                input_ids=tokens["input_ids"][rows],
                attention_mask=tokens["attention_mask"][rows],
            )
            loss = contrastive_loss(output.logits_per_audio, output.logits_per_text)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update()
    bar.close()
    model.eval()


def contrastive_loss(audio_logits: Tensor, text_logits: Tensor) -> Tensor:
    """Symmetric InfoNCE over a batch of n pairs; both logits are `(n, n)` (CLAP, equation 2)."""
    pair = torch.arange(len(audio_logits), device=audio_logits.device)
    return (cross_entropy(audio_logits, pair) + cross_entropy(text_logits, pair)) / 2


def augment(mels: Tensor) -> Tensor:
    """Random gain, circular time shift, time mask and frequency mask of `(n, 1, frames, mels)` in dB."""
    n, _, frames, bins = mels.shape
    mels = (mels + torch.empty(n, 1, 1, 1).uniform_(-GAIN_DB, GAIN_DB)).clamp_min(SILENCE_DB)
    shifted = (torch.arange(frames) + torch.randint(-SHIFT, SHIFT + 1, (n, 1))) % frames
    mels = mels.gather(2, shifted[:, None, :, None].expand_as(mels))
    mean = mels.mean(dim=(2, 3), keepdim=True)
    moment, band = _random_span(n, frames, frames // 12), _random_span(n, bins, bins // 8)
    return torch.where(moment[:, None, :, None] | band[:, None, None, :], mean, mels)


def _random_span(n: int, size: int, longest: int) -> Tensor:
    """`(n, size)` bool, true on one contiguous span of at most `longest` in each row."""
    length = torch.randint(0, longest + 1, (n, 1))
    start = (torch.rand(n, 1) * (size - length + 1)).long()
    place = torch.arange(size)
    return (place >= start) & (place < start + length)
