"""A small CLAP that hears the soundscapes: a real `ClapModel`, where no checkpoint can be downloaded.

HTSAT and RoBERTa of 3.7 million parameters together. One that is trained ships in `clap/`, whose card says how it was
made, and `ClapEncoder.from_pretrained("small")` loads it. Needs `pip install "dlink-adapter[clap]"`.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dlink_adapter.extract.audio import import_clap_extra, log_mel
from dlink_adapter.soundscapes.scenes import Scene, in_processes, render

if TYPE_CHECKING:
    from transformers import ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

VOCABULARY = 1000
MAX_TOKENS = 64
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in RoBERTa's order, so that pad is 1
MEL_BINS = 32


def new_small_clap(vocabulary: int, *, logit_scale: float, width: int = 64) -> "ClapModel":
    """A `ClapModel` with random weights.

    Args:
        vocabulary: number of tokens.
        logit_scale: initial inverse temperature. It makes the modality gap (Liang et al., NeurIPS 2022, section 4).
        width: of HTSAT's first layers, a multiple of 8.
    """
    transformers = import_clap_extra("transformers")
    audio = dict(
        window_size=4,
        spec_size=128,
        num_mel_bins=MEL_BINS,
        patch_size=8,
        patch_stride=[8, 8],
        patch_embeds_hidden_size=width,
        depths=[2, 2, 2],
        num_attention_heads=[2, 4, 8],
        hidden_size=4 * width,
        hidden_dropout_prob=0.0,
        initializer_factor=3.0,  # the default of 1 is for a wide HTSAT; weights of narrow layers would start too small
    )
    text = dict(
        vocab_size=vocabulary,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS + 2,  # RoBERTa's positions start at pad_token_id + 1
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_factor=2.0,
    )
    return transformers.ClapModel(
        transformers.ClapConfig(
            audio_config=audio, text_config=text, projection_dim=256, logit_scale_init_value=logit_scale
        )
    )


def feature_extractor(rate: int = 16_000, seconds: int = 5) -> "ClapFeatureExtractor":
    """The log-mel front end of a small CLAP, for audio at `rate` Hz and windows of `seconds`."""
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


def train_tokenizer(captions: Iterable[str], folder: Path) -> "RobertaTokenizerFast":
    """A byte-level BPE tokenizer of the captions, whose vocabulary is left in `folder`."""
    bpe = import_clap_extra("tokenizers").ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        captions, vocab_size=VOCABULARY, min_frequency=2, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    bpe.save_model(str(folder))
    transformers = import_clap_extra("transformers")
    return transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=MAX_TOKENS)


def log_mels(waveforms: Tensor, extractor: "ClapFeatureExtractor") -> Tensor:
    """The extractor's features of clips that fill a window: `(n, samples)` -> `(n, 1, frames, mels)` float32."""
    filters = torch.from_numpy(extractor.mel_filters_slaney)
    features = partial(log_mel, filters=filters, fft_size=extractor.fft_window_size, hop=extractor.hop_length)
    return torch.stack([features(clip) for clip in waveforms]).unsqueeze(1)


def render_mels(scenes: Sequence[Scene], extractor: "ClapFeatureExtractor", *, progress: bool = True) -> Tensor:
    """Render scenes and keep their features alone, `(n, 1, frames, mels)` float16; one process per core."""
    return torch.from_numpy(in_processes(partial(_rendered_mel, extractor=extractor), scenes, progress=progress))


def _rendered_mel(scene: Scene, extractor: "ClapFeatureExtractor") -> np.ndarray:
    torch.set_num_threads(1)  # there is a process for each core
    waveform = torch.from_numpy(render(scene, extractor.sampling_rate))
    return log_mels(waveform.unsqueeze(0), extractor)[0].half().numpy()
