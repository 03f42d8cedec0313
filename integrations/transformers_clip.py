"""CLIP and SigLIP through transformers, as encoders of images and text.

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
from dlink_adapter.integrations.two_towers import TwoTowers, settings_of

try:
    from PIL import Image, ImageOps
    from transformers import AutoImageProcessor, CLIPModel, SiglipModel
except ImportError as error:
    raise ImportError('CLIP needs transformers and pillow: pip install "dlink-adapter[clip]"') from error

# Settings that change the outputs of a model with the same weights.
VISION_SETTINGS = ("image_size", "num_attention_heads", "patch_size")
TEXT_SETTINGS = ("max_position_embeddings", "num_attention_heads")
IMAGE_SETTINGS = (
    "do_center_crop", "do_normalize", "do_resize", "image_mean", "image_std", "resample", "rescale_factor",
)  # fmt: skip


@dataclass(frozen=True)
class ImageLoader:
    """Image files to the pixels that the model takes as input."""

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
        """An image of any mode and size, rotated by its EXIF tag -> `(channels, height, width)`."""
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(self.processor(upright, return_tensors="np")["pixel_values"][0], dtype=np.float32)


class ClipEncoder(TwoTowers):
    """A frozen CLIP or SigLIP, e.g. `openai/clip-vit-base-patch32`: images and captions to unit-norm `(n, dim)`.

    Attributes:
        id: hub id or folder it was loaded from.
        revision: hub revision that was asked for, else the commit that was loaded; None for a folder.
        dim: width of the shared space.
        fingerprint: 16 hex digits over the weights, the preprocessing and the vocabulary.
        load: reads a file for `encode_image`, in any process.
    """

    model_types, processor_class = ("clip", "siglip"), AutoImageProcessor

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
            max_tokens=text.max_position_embeddings,
            id=id,
            revision=revision,
            batch_size=batch_size,
        )
        if not is_clip:  # SigLIP was trained on captions padded to full length, without a mask
            self.padding, self.text_inputs = "max_length", ("input_ids",)
        self.load = ImageLoader(processor)
        settings = settings_of((model.config.vision_config, VISION_SETTINGS), (text, TEXT_SETTINGS))
        settings.append({name: processor.to_dict().get(name) for name in IMAGE_SETTINGS})
        self.fingerprint = fingerprint(model, settings, tokenizer.get_vocab())

    def describe(self) -> dict[str, Any]:
        """Id, revision, fingerprint and the size of an image in pixels."""
        names = ("id", "revision", "fingerprint")
        return {name: getattr(self, name) for name in names} | {"pixels": self.model.config.vision_config.image_size}

    @torch.no_grad()
    def encode_image(self, images: Iterable[Any], *, progress: bool = False) -> Tensor:
        """Images to unit-norm embeddings `(n, dim)`.

        Args:
            images: files, PIL images, arrays `(height, width, 3)` of uint8, or what `self.load` made of files. They are
                read one by one, as the batches need them.
            progress: shows a bar when on a terminal.

        Raises:
            UnreadableError: a file or an image that cannot be used, by its name or its place.
        """
        check_sequence(images)
        pixels = self._pixels(tqdm(images, desc="images", unit="image", disable=None if progress else True))
        rows = []
        while batch := list(islice(pixels, self.batch_size)):
            inputs = torch.from_numpy(np.stack(batch)).to(self.model.device)
            rows.append(pooled(self.model.get_image_features(pixel_values=inputs), self.dim))
        return normalize(torch.cat(rows), dim=-1) if rows else torch.zeros(0, self.dim)

    def _pixels(self, images: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
        for index, image in enumerate(images):
            if isinstance(image, Loaded):
                yield image.features
            elif isinstance(image, Image.Image):
                yield self.load.features(image)
            elif isinstance(image, (str, Path)):
                yield self.load(image).features
            else:
                array = np.asarray(image)
                if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
                    raise UnreadableError(
                        f"image {index}: expected uint8 (height, width, 3), got {array.shape} {array.dtype}"
                    )
                yield self.load.features(Image.fromarray(array))
