"""What every bridge has in common: how it is called, saved, loaded and shared.

A saved bridge is a folder with `config.json`, `model.safetensors` and a model card. Nothing is unpickled.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dlink_adapter.bridge.card import model_card
from dlink_adapter.bridge.config import from_known
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.files import write_atomically

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
MODALITIES = ("audio", "text")


class PretrainedBridge(nn.Module):
    """A map (..., dim) -> (..., dim) from an encoder's embeddings to text-like ones, fitted on pairs.

    A subclass has a `name`, a frozen dataclass `config_class` with at least `dim`, and `bridge`, which gets float32.
    `metadata` is free JSON that is saved with it: the encoder's fingerprint, what calibration measured.
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
        """Whether the bridge can be called."""
        raise NotImplementedError

    def fit(self, audio: Tensor, text: Tensor) -> None:
        """Fit on pairs, both (n, dim)."""
        raise NotImplementedError(f"a {type(self).__name__} is fitted by dlink_adapter.fit(bridge, (audio, text))")

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        """float32 (..., dim) -> float32 (..., dim), unit norm."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, *, modality: str = "audio", generator: Draws = None, samples: int | None = None
    ) -> Tensor:
        """Embeddings (..., dim) of any norm -> unit-norm text-like embeddings (..., dim) of the same dtype and device.

        Args:
            x: the encoder's output. Any leading axes, none included; an empty batch is fine.
            modality: "audio" for the tower that is bridged (also where it sees images), "text" for captions.
            generator: makes a stochastic bridge repeatable, bit for bit; or one for each row of x (n, dim), so that
                what becomes of a row does not depend on the rows beside it.
            samples: reconstructions to average; None takes the config's. Deterministic bridges ignore both.

        Raises:
            ValueError: a wrong width, NaN, Inf, a zero vector, a bridge that was not fitted, an unknown modality.
        """
        if modality not in MODALITIES:
            raise ValueError(f"modality is {modality!r}: expected one of {', '.join(MODALITIES)}")
        if not x.is_floating_point() or x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"expected floating-point embeddings (..., {self.dim}), got {tuple(x.shape)} {x.dtype}")
        if not torch.compiler.is_compiling():  # looking at values would break the graph
            self.check_values(x)
        device = "cpu" if x.device.type == "meta" else x.device.type  # autocast does not know the meta device
        with torch.autocast(device, enabled=False):
            return self.bridge(x.float(), modality, generator, samples).to(x.dtype)

    def check_values(self, x: Tensor) -> None:
        """Raise ValueError if the bridge is not fitted, or a row of x (..., dim) is zero or not finite."""
        if x.device.type == "meta":
            return
        if not self.is_fitted:
            raise ValueError(
                f"this {type(self).__name__} is not fitted: call fit on pairs, or load one with from_pretrained"
            )
        norm = x.detach().float().norm(dim=-1)
        bad = (~norm.isfinite() | (norm == 0)).nonzero()
        if len(bad):
            where = tuple(bad[0].tolist())
            raise ValueError(
                f"embedding {where} of {tuple(x.shape)} is zero, or has NaN or Inf: {x[where].flatten()[:4]}"
            )

    def check_encoder(self, fingerprint: str) -> None:
        """Raise ValueError if the bridge was fitted on embeddings of another encoder than this fingerprint's."""
        fitted_on = self.metadata.get("fingerprint")
        if fitted_on is not None and fitted_on != fingerprint:
            raise ValueError(
                f"this bridge was fitted on the encoder {fitted_on}, these embeddings come from {fingerprint}: "
                "fit a bridge for this encoder, or encode with the other one"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, weights and model card into a folder. Each file is complete or is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        values = {"bridge": self.name, "config": vars(self.config), "metadata": self.metadata}
        write_atomically(folder / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
        write_atomically(folder / CONFIG_FILE, json.dumps(values, indent=2))
        write_atomically(folder / CARD_FILE, model_card(self.name, vars(self.config), self.metadata))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """Load a bridge from a folder or from the hub.

        Raises FileNotFoundError where there is none, ValueError on another kind of bridge, unknown keys, other weights.
        """
        folder = resolve_folder(name_or_path, revision=revision, token=token)
        values = read_config(folder)
        if values.get("bridge") != cls.name:
            raise ValueError(
                f"{name_or_path} holds a {values.get('bridge')!r} bridge, not {cls.name!r}: use load_bridge"
            )
        bridge = cls(from_known(cls.config_class, values["config"]))
        bridge.metadata = values.get("metadata", {})
        try:
            bridge.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"the weights in {folder} are damaged, or do not fit its config: {error}") from error
        return bridge.eval()

    def push_to_hub(self, repo_id: str, *, token: str | None = None, private: bool | None = None) -> str:
        """Upload the bridge as a model repository and return the commit's address."""
        return push_saved(self, repo_id, f"Add {self.name} bridge", token=token, private=private)


def push_saved(model: Any, repo_id: str, message: str, *, token: str | None = None, private: bool | None = None) -> str:
    """Upload what `model.save_pretrained` writes as a model repository and return the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))


def resolve_folder(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE),
) -> Path:
    """The local folder of a saved bridge: itself, or the hub's snapshot of these files of that repository."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, token=token, allow_patterns=list(files)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{name_or_path} is neither a folder nor a repository that can be read: {error}"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` in a bridge's folder says: the kind of bridge, its config, its metadata."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: it is not a saved bridge")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not {"bridge", "config"} <= set(values):
        raise ValueError(f"{path} is not the config of a bridge: it needs the keys bridge and config")
    return values
