"""CLIP and SigLIP through transformers: the bridge is not about audio alone.

Any `CLIPModel` (Radford et al., ICML 2021) or `SiglipModel` (Zhai et al., ICCV 2023; also the fixed-resolution
checkpoints of SigLIP 2) on the hub or in a local folder.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from dlink_adapter.extract.encoders import Loaded, UnreadableError, check_sequence, fingerprint, pooled
from dlink_adapter.integrations.two_towers import TwoTowers, on_device, settings_of

try:
    from PIL import Image, ImageOps
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel, SiglipModel
except ImportError as error:
    raise ImportError('CLIP needs transformers and pillow: pip install "dlink-adapter[clip]"') from error

# What changes the function of a model without changing any of its parameters.
VISION_SETTINGS = ("image_size", "num_attention_heads", "patch_size")
TEXT_SETTINGS = ("max_position_embeddings", "num_attention_heads")


@dataclass(frozen=True)
class ImageLoader:
    """Image files to the pixels that the model takes."""

    processor: Any

    def __call__(self, path: str | Path) -> Loaded:
        try:
            with Image.open(path) as image:
                return Loaded(self.features(image))
        except FileNotFoundError as error:
            raise UnreadableError(f"{path}: no such file") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableError(f"{path}: not readable as an image: {error}") from error

    def features(self, image: Image.Image) -> NDArray[np.float32]:
        """Of any mode and size, turned as its EXIF tag says -> `(channels, height, width)`."""
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(self.processor(upright, return_tensors="np")["pixel_values"][0], dtype=np.float32)


class ClipEncoder(TwoTowers):
    """A frozen CLIP or SigLIP: images and captions to unit-norm embeddings `(n, dim)`, float32 on the CPU.

    Attributes:
        id: hub id or folder it was loaded from.
        revision: hub revision that was asked for, else the commit that was loaded; None for a folder.
        dim: width of the shared space.
        fingerprint: 16 hex digits over the weights, the preprocessing and the vocabulary.
        load: reads a file for `encode_image`, in any process.
    """

    def __init__(
        self,
        model: CLIPModel | SiglipModel,
        processor: Any,
        tokenizer: Any,
        *,
        id: str = "",
        revision: str | None = None,
        batch_size: int = 32,
    ) -> None:
        is_clip = isinstance(model, CLIPModel)
        text = model.config.text_config
        super().__init__(
            model,
            tokenizer,
            dim=model.config.projection_dim if is_clip else text.projection_size,
            room=text.max_position_embeddings,
            id=id,
            revision=revision,
            batch_size=batch_size,
        )
        if not is_clip:  # SigLIP was trained on captions that are padded to their full length, without a mask
            self.padding, self.text_inputs = "max_length", ("input_ids",)
        self.load = ImageLoader(processor)
        self.fingerprint = _fingerprint(model, processor, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> "ClipEncoder":
        """Loads a CLIP or a SigLIP from the hub or a folder.

        Args:
            name_or_path: e.g. `openai/clip-vit-base-patch32` or `google/siglip-base-patch16-224`, or a folder with the
                model, tokenizer and preprocessor.
            revision: branch, tag or commit on the hub.
            device: where the model runs; CUDA where there is one unless told otherwise.
            batch_size: images, or captions, a forward pass.

        Raises:
            OSError: there is no such model.
            ValueError: it is neither, or its tokenizer came back without a vocabulary.
        """
        name = str(name_or_path)
        model = AutoModel.from_pretrained(name, revision=revision)
        if not isinstance(model, (CLIPModel, SiglipModel)):
            raise ValueError(f"{name} is neither a CLIP nor a SigLIP: it is a {type(model).__name__}")
        processor = AutoImageProcessor.from_pretrained(name, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        revision = revision or getattr(model.config, "_commit_hash", None)  # which a model from a folder lacks
        return cls(on_device(model, device), processor, tokenizer, id=name, revision=revision, batch_size=batch_size)

    def describe(self) -> dict[str, Any]:
        """Id, revision, fingerprint and the size of an image in pixels."""
        names = ("id", "revision", "fingerprint")
        return {name: getattr(self, name) for name in names} | {"pixels": self.model.config.vision_config.image_size}

    @torch.no_grad()
    def encode_image(self, images: Iterable[str | Path | Image.Image | Loaded], *, progress: bool = False) -> Tensor:
        """Images to unit-norm embeddings `(n, dim)`.

        Args:
            images: files, PIL images, or what `self.load` made of files, taken one by one as the batches need them.
            progress: shows a bar when on a terminal.

        Raises:
            UnreadableError: a file that cannot be used, by its name.
        """
        check_sequence(images)
        pixels = self._pixels(tqdm(images, desc="images", unit="image", disable=None if progress else True))
        rows = []
        while batch := list(islice(pixels, self.batch_size)):
            inputs = torch.from_numpy(np.stack(batch)).to(self.model.device)
            rows.append(pooled(self.model.get_image_features(pixel_values=inputs), self.dim))
        return normalize(torch.cat(rows), dim=-1) if rows else torch.zeros(0, self.dim)

    def _pixels(self, images: Iterable[str | Path | Image.Image | Loaded]) -> Iterator[NDArray[np.float32]]:
        for image in images:
            if isinstance(image, Loaded):
                yield image.features
            elif isinstance(image, Image.Image):
                yield self.load.features(image)
            else:
                yield self.load(image).features


def _fingerprint(model: CLIPModel | SiglipModel, processor: Any, tokenizer: Any) -> str:
    settings = settings_of((model.config.vision_config, VISION_SETTINGS), (model.config.text_config, TEXT_SETTINGS))
    # The mean and the size of a processor, not what it is called in this version of transformers.
    names = ("do_center_crop", "do_normalize", "do_resize", "image_mean", "image_std", "resample", "rescale_factor")
    settings.append({name: processor.to_dict().get(name) for name in names})
    return fingerprint(model, settings, tokenizer.get_vocab())
