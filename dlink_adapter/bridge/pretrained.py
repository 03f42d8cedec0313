"""Saving, loading and sharing a bridge of any kind.

A saved bridge is a folder with `config.json`, `model.safetensors` and a model card. Nothing is unpickled.
"""

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save
from torch import nn

from dlink_adapter import __version__
from dlink_adapter.bridge.config import from_known
from dlink_adapter.bridge.hub import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    Shareable,
    read_config,
    resolve_folder,
    settings_in,
)
from dlink_adapter.bridge.weights import check_finite, load_weights
from dlink_adapter.files import sha256, write_atomically

SHA256_KEY, ENCODER_KEY = "weights_sha256", "encoder"


class Pretrained(nn.Module, Shareable):
    """A module that is made from a config and can be saved: `config_class` is a frozen dataclass with at least `dim`.

    `metadata` is free JSON that is saved with it.
    """

    name: ClassVar[str]
    config_class: ClassVar[Any]

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}

    @property
    def dim(self) -> int:
        """The width of an embedding."""
        return int(self.config.dim)

    @property
    def is_fitted(self) -> bool:
        """Whether it can be called."""
        return True

    @abstractmethod
    def card(self) -> str:
        """The model card as Markdown."""

    def settings(self) -> dict[str, Any]:
        """The config as JSON takes it: `config_class(**bridge.settings())` makes a bridge like this one."""
        return dict(vars(self.config))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights and model card into a folder. Each file is complete or is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
        values = {
            "bridge": self.name,
            "version": __version__,
            "config": self.settings(),
            "metadata": self.metadata,
            ENCODER_KEY: self.metadata.get("fingerprint"),
            SHA256_KEY: sha256(folder / WEIGHTS_FILE),
        }
        write_atomically(folder / CONFIG_FILE, json.dumps(values, indent=2))
        write_atomically(folder / CARD_FILE, self.card())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        subfolder: str = "",
        **hub: Any,
    ) -> Self:
        """Load a bridge from a folder or from the hub.

        Args:
            name_or_path: a folder, or a repository's id.
            device: where it is put.
            dtype: of its floating-point weights.
            subfolder: where it lies in the folder or the repository.
            hub: revision, token, cache_dir, local_files_only, force_download.

        Raises:
            FileNotFoundError: there is none.
            ValueError: another kind of bridge, unknown settings, damaged or other weights, NaN or Inf in them.
        """
        folder = resolve_folder(name_or_path, subfolder=subfolder, **hub)
        values = read_config(folder)
        if values["bridge"] != cls.name:
            raise ValueError(f"{name_or_path} holds a {values['bridge']!r} bridge, not {cls.name!r}: use load_bridge")
        with settings_in(folder / CONFIG_FILE, values.get("version")), torch.device("meta"):  # nothing is drawn
            bridge = cls(from_known(cls.config_class, values["config"]))
        bridge.metadata = values.get("metadata", {})
        if (encoder := values.get(ENCODER_KEY)) not in (None, bridge.metadata.get("fingerprint")):
            raise ValueError(
                f"{folder / CONFIG_FILE}: the bridge was fitted on the encoder {encoder}, but its metadata have the "
                f"fingerprint {bridge.metadata.get('fingerprint')}: put the metadata back"
            )
        load_weights(bridge, folder / WEIGHTS_FILE, values.get(SHA256_KEY))
        if bridge.is_fitted:  # else the buffers are NaN
            check_finite(bridge.state_dict(), folder / WEIGHTS_FILE)
        return bridge.to(device=device, dtype=dtype).eval()
