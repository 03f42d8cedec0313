"""A captioner: from sounds, or their embeddings, to captions; saved as a folder."""

from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Generator, Tensor

from dlink_adapter.bridge.hub import CARD_FILE, Shareable, load_weights
from dlink_adapter.captioner.card import captioner_card
from dlink_adapter.captioner.config import BRIDGE_FOLDER, PATHS, write_captioner_config
from dlink_adapter.captioner.generation import generation_settings, in_eval_mode
from dlink_adapter.captioner.prefix_model import PrefixModel
from dlink_adapter.extract.encoders import encode_media, load_encoder
from dlink_adapter.files import write_atomically
from dlink_adapter.folders import is_path

PROJECTOR_FILE, CONDITION_FILE, ADAPTER_FOLDER = "projector.safetensors", "text_condition.safetensors", "adapter"


class Captioner(PrefixModel, Shareable):
    """Captions sounds, or embeddings of a frozen encoder, with a language model; see `PrefixModel` for its parts."""

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

    def caption(self, sounds: Any, *, batch_size: int = 64, **options: Any) -> list[Any]:
        """Captions of sounds: a string for each, or a list of strings where `num_return_sequences` is above 1.

        Args:
            sounds: a list of audio files, `(array, rate in Hz)` or audio of the library datasets, which the captioner's
                own encoder embeds (of image files, where it is one of images); or embeddings (n, dim) of that encoder.
            batch_size: clips that are captioned together.
            options: as for `generate`.

        Raises:
            ValueError: as `embed` and `generate`.
        """
        return self.generate(self.embed(sounds), batch_size=batch_size, **options)

    @torch.no_grad()
    def generate(
        self,
        embedding: Tensor | NDArray[Any],
        *,
        modality: str = "audio",
        batch_size: int = 64,
        generator: Generator | None = None,
        **options: Any,
    ) -> list[Any]:
        """Captions of embeddings (n, dim): n strings, or n lists of k where `num_return_sequences` is k above 1.

        A batch has no padding, but kernels round by its size: in bfloat16 and float16 another `batch_size` may give
        another caption where two tokens are almost equally likely.

        Args:
            embedding: of the encoder that the bridge was fitted on.
            modality: "audio" for the tower that is bridged, "text" for captions.
            batch_size: rows that are captioned together; a `streamer` takes 1.
            generator: makes a stochastic bridge repeatable.
            options: of transformers' `generate`: generation_config, num_beams, do_sample, eos_token_id, streamer, ...
                Unless they say otherwise, decoding is greedy and ends at EOS or after `max_caption_tokens`.

        Raises:
            ValueError: another width or modality, or `return_dict_in_generate`; `inputs_embeds` leads to what it asks.
        """
        ends = {"eos_token_id": self.tokenizer.eos_token_id, "pad_token_id": self.pad_token_id}
        defaults = {"max_new_tokens": self.settings.max_caption_tokens, "do_sample": False, **ends}
        settings, count = generation_settings(defaults, options)
        said: list[str] = []
        with in_eval_mode(self):
            for rows in torch.as_tensor(embedding).split(batch_size) if len(embedding) else ():
                start = self.inputs_embeds(rows, modality=modality, generator=generator)
                seen = torch.ones(start.shape[:2], dtype=torch.long, device=start.device)
                tokens = self.llm.generate(inputs_embeds=start, attention_mask=seen, **settings)
                said += [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return said if count == 1 else [said[row : row + count] for row in range(0, len(said), count)]

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
        """Load what `save_pretrained` wrote of the projector and the text condition.

        Raises ValueError, which names the file, on damaged or other weights.
        """
        load_weights(self.projector, Path(folder, PROJECTOR_FILE))
        if self.text_condition.state_dict():
            load_weights(self.text_condition, Path(folder, CONDITION_FILE))
