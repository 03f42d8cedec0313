"""Models of the package `open_clip`, as encoders of images and text: OpenCLIP, EVA, CoCa, SigLIP, MetaCLIP, ...

A model is a repository on the hub, such as `laion/CLIP-ViT-B-32-laion2B-s34B-b79K`, or a folder, with
open_clip_config.json and weights in safetensors. What the package calls `("ViT-B-32", "laion2b_s34b_b79k")` has such a
repository too.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlink_adapter.bridge.hub import resolve_folder
from dlink_adapter.extract.encoders import encode_distinct, fingerprint, pooled
from dlink_adapter.files import read_json
from dlink_adapter.integrations.images import ImageLoader, ImageTower
from dlink_adapter.integrations.two_towers import on_device

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
FILES = (CONFIG, WEIGHTS, "*.json", "*.txt", "*.model")  # the last three of tokenizers
PROBE = "A dog barks; 3 bells ring."  # its tokens tell tokenizers apart


class TransformLoader(ImageLoader):
    """Image files to pixels by the package's transform for validation."""

    def pixels(self, image: Any) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.processor(image).numpy()
        return values


class OpenClipEncoder(ImageTower):
    """A frozen model of `open_clip`: images and captions to unit-norm embeddings `(n, dim)`, float32 on the CPU.

    Attributes:
        id: hub id or folder it was loaded from.
        revision: hub revision that was asked for; None for the newest, or a folder.
        dim: width of the shared space.
        fingerprint: 16 hex digits over the weights, the config and the tokens of a sentence.
        load: reads a file for `encode_image`, in any process.
    """

    def __init__(
        self,
        model: Any,
        transform: Callable[[Any], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        config: dict[str, Any],
        *,
        id: str = "",
        revision: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer, self.load, self.batch_size = tokenizer, TransformLoader(transform), batch_size
        self.id, self.revision, self.dim = id, revision, int(config["model_cfg"]["embed_dim"])
        self.fingerprint = fingerprint(model, [config, {"tokens": tokenizer([PROBE]).tolist()}], {})
        self.device = next(model.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> Self:
        """Loads a model from the hub or a folder.

        Args:
            name_or_path: hub id or folder.
            revision: branch, tag or commit on the hub.
            device: where the model runs; by default CUDA where there is one.
            batch_size: images or captions in a forward pass.

        Raises:
            ImportError: the package is not installed.
            FileNotFoundError: there is no such model, it has no `open_clip_config.json` or no weights in safetensors,
                or the hub cannot be reached.
        """
        try:
            package = import_module("open_clip")
        except ImportError as error:
            raise ImportError('the package open_clip is needed here: pip install "dlink-adapter[open-clip]"') from error
        folder = resolve_folder(name_or_path, FILES, revision=revision)
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{name_or_path} has no {file}: it is no model of open_clip in safetensors")
        source = f"local-dir:{folder}"
        model, _, transform = package.create_model_and_transforms(source)
        return cls(
            on_device(model, device), transform, package.get_tokenizer(source), read_json(folder / CONFIG),
            id=str(name_or_path), revision=revision, batch_size=batch_size,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Id, revision and fingerprint."""
        return {name: getattr(self, name) for name in ("id", "revision", "fingerprint")}

    @torch.no_grad()
    def encode_text(self, captions: Iterable[str], *, progress: bool = False) -> Tensor:
        """Captions to unit-norm embeddings `(n, dim)`; equal captions are computed once, long ones are truncated.

        Raises:
            ValueError: a caption is blank or not a string, by its place in `captions`.
        """
        return encode_distinct(
            captions, self._embed_captions, batch_size=self.batch_size, dim=self.dim, progress=progress
        )

    def _embed_captions(self, batch: list[str]) -> Tensor:
        return pooled(self.model.encode_text(self.tokenizer(batch).to(self.device)), self.dim)

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        return pooled(self.model.encode_image(pixels.to(self.device)), self.dim)
