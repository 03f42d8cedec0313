"""A captioner: from sounds, or their embeddings, to captions; saved as a folder."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.hub import CARD_FILE, Shareable
from dlink_adapter.bridge.weights import load_weights
from dlink_adapter.captioner.candidates import Candidates, Source, make_candidates
from dlink_adapter.captioner.card import captioner_card
from dlink_adapter.captioner.choice import Choice, choose_best
from dlink_adapter.captioner.confidence import CONFIDENCE_FILE, Confidence
from dlink_adapter.captioner.config import BRIDGE_FOLDER, PATHS, write_captioner_config
from dlink_adapter.captioner.prefix_model import PrefixModel
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.extract.encoders import encode_media, load_encoder
from dlink_adapter.files import write_atomically
from dlink_adapter.folders import is_path

PROJECTOR_FILE, CONDITION_FILE, ADAPTER_FOLDER = "projector.safetensors", "text_condition.safetensors", "adapter"


class Captioned(NamedTuple):
    """A caption, the candidates that it was chosen from, and its confidence in [0, 1], None without calibration."""

    caption: str
    candidates: list[str]
    confidence: float | None


class Captioner(PrefixModel, Shareable):
    """Captions sounds, or embeddings of a frozen encoder, with a language model; see `PrefixModel` for its parts.

    `confidence` is None before it is calibrated.
    """

    confidence: Confidence | None

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Self:
        """Load a captioner from a folder or from the hub.

        `options` are those of `dlink_adapter.integrations.causal_lm.load_captioner`: revision, token, cache_dir,
        local_files_only, force_download, subfolder, device, quantize, and dtype, device_map, ... of the base model.
        """
        # By its name, as encoders are: it needs transformers and peft, which this module does without.
        loaded: Self = import_module("dlink_adapter.integrations.causal_lm").load_captioner(name_or_path, **options)
        return loaded

    @cached_property
    def encoder(self) -> Any:
        """The frozen encoder that the settings name, loaded on first use.

        Raises:
            ValueError: they name none.
        """
        if not self.settings.encoder:
            raise ValueError(
                "this captioner does not say which encoder it was trained with: give embeddings (n, dim), or add "
                "encoder and encoder_path to its captioner.json"
            )
        return load_encoder(self.settings.encoder, self.settings.encoder_path)

    def embed(self, sounds: Any) -> Tensor:
        """What `caption` takes -> embeddings (n, dim).

        Raises ValueError on a clip that cannot be used, and where the bridge was fitted on another encoder.
        """
        if isinstance(sounds, (Tensor, np.ndarray)):
            return torch.as_tensor(sounds)
        self.bridge.check_encoder(self.encoder.fingerprint)
        return encode_media(self.encoder, sounds)

    def caption(
        self,
        sounds: Any,
        *,
        candidates: int = 1,
        choose: Choice = "encoder",
        source: Source = "beams",
        return_all: bool = False,
        seed: int | Sequence[int] = 0,
        batch_size: int = 64,
        **options: Any,
    ) -> list[Any]:
        """Captions of sounds, one string for each.

        Args:
            sounds: a list of audio files, `(array, rate in Hz)` or audio of the library datasets, which the captioner's
                own encoder embeds (of image files, where it is one of images); or embeddings (n, dim) of that encoder.
            candidates: captions of each sound to choose one from.
            choose: by encoder, the candidate whose text embedding is nearest to the bridged audio; mbr, the one nearest
                to all others; likelihood, the likeliest to the language model.
            source: of the candidates: beams or sampling of the language model, draws of the bridge, or
                draws_and_sampling.
            return_all: give a `Captioned` for each sound, with all candidates and a confidence.
            seed: of sampling and draws; or one for each sound.
            batch_size: captions that are in the making together.
            options: as for `generate`.

        Raises:
            ValueError: as `embed` and `generate`; no encoder to choose by.
        """
        embedding = self.embed(sounds)
        if candidates == 1 and not return_all:
            return self.generate(embedding, batch_size=batch_size, **options)
        made = self.candidates(embedding, candidates, source=source, seed=seed, batch_size=batch_size, **options)
        best = choose_best(made, choose)
        if not return_all:
            return [of_clip[place] for of_clip, place in zip(made.captions, best, strict=True)]
        sure = None if self.confidence is None else self.confidence(embedding, made).tolist()
        return [
            Captioned(of_clip[place], of_clip, None if sure is None else sure[row][place])
            for row, (of_clip, place) in enumerate(zip(made.captions, best, strict=True))
        ]

    def candidates(self, embedding: Tensor, count: int, **options: Any) -> Candidates:
        """`make_candidates` with the text tower of the captioner's encoder, if it names one."""
        encode_text = self.encoder.encode_text if self.settings.encoder else None
        return make_candidates(self, embedding, count, encode_text=encode_text, **options)

    def calibrate(
        self, pairs: PairedEmbeddings, known: Tensor, strange: Tensor, *, candidates: int = 8
    ) -> tuple[Confidence, float]:
        """Fit the confidence of captions on validation pairs, as `Confidence.fit` does, and keep it.

        Returns:
            The confidence, which `save_pretrained` saves too, and the share of the captions that are right.
        """
        confidence = Confidence(self.bridge.dim)
        share = confidence.fit(pairs, self.candidates(pairs.audio, candidates), known, strange)
        self.confidence = confidence
        return confidence, share

    def set_bridge(self, bridge: Bridge) -> None:
        """As of a `PrefixModel`. A confidence that was calibrated behind another bridge is dropped."""
        super().set_bridge(bridge)
        self.confidence = None

    def merge(self) -> Self:
        """Merge the LoRA into the language model, in place: captions cost less, and it is saved whole.

        Raises:
            ValueError: no LoRA, or one on a quantised model, whose weights it would be rounded to.
        """
        if self.settings.tuning != "lora":
            raise ValueError(f"tuning is {self.settings.tuning!r}: there is no LoRA to merge")
        if self.settings.quantize is not None:
            raise ValueError(
                f"the LoRA would be rounded to {self.settings.quantize} weights: load_captioner(folder, quantize=None) "
                "and merge that"
            )
        self.llm = self.llm.merge_and_unload()
        self.settings = replace(self.settings, tuning="full")
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Save bridge, projector, LoRA (or the tuned model), a card and a small JSON that names the base model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.bridge.save_pretrained(folder / BRIDGE_FOLDER)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.projector.state_dict().items()}
        write_atomically(folder / PROJECTOR_FILE, save(tensors))
        if state := self.text_condition.state_dict():
            write_atomically(folder / CONDITION_FILE, save({name: tensor.cpu() for name, tensor in state.items()}))
        else:  # what another condition left there
            (folder / CONDITION_FILE).unlink(missing_ok=True)
        if self.confidence is None:
            (folder / CONFIDENCE_FILE).unlink(missing_ok=True)
        else:
            self.confidence.save_pretrained(folder)
        if self.settings.tuning != "frozen":
            self.llm.save_pretrained(folder / ADAPTER_FOLDER)
        written = write_captioner_config(folder, self.settings)
        rows = self.bridge.training_rows + self.text_condition.training_rows
        write_atomically(folder / CARD_FILE, captioner_card(written, self.bridge, rows))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """As of a bridge: private, token, commit_message, create_pr, revision.

        Raises ValueError where the base model or the encoder is a folder of this machine.
        """
        for name in PATHS:
            path = getattr(self.settings, name)
            if path and (is_path(path) or Path(path).is_dir()):
                raise ValueError(
                    f"{name} is the folder {path}, which nobody else has: push that to the hub first, and name its "
                    "repository in the captioner's settings"
                )
        return super().push_to_hub(repo_id, **options)

    def load_trained(self, folder: str | Path) -> None:
        """Load what `save_pretrained` wrote of the projector, the text condition and the confidence.

        Raises ValueError, which names the file, on damaged or other weights.
        """
        load_weights(self.projector, Path(folder, PROJECTOR_FILE))
        if self.text_condition.state_dict():
            load_weights(self.text_condition, Path(folder, CONDITION_FILE))
        self.confidence = Confidence.from_pretrained(folder, self.bridge.dim)
