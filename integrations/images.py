"""What the encoders of images share: files and arrays to pixels, and batches of pixels to embeddings."""

from abc import ABC, abstractmethod
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

from dlink_adapter.extract.encoders import Loaded, UnreadableError, check_sequence

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise ImportError('images need pillow: pip install "dlink-adapter[clip]"') from error


@dataclass(frozen=True)
class ImageLoader(ABC):
    """Image files to the pixels that a model takes as input; a subclass says how, by `pixels`."""

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
        return self.pixels(ImageOps.exif_transpose(image).convert("RGB"))

    @abstractmethod
    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> `(channels, height, width)`."""


class ImageTower(ABC):
    """Base class of encoders of images; a subclass embeds a batch of pixels, by `_embed_pixels`."""

    load: ImageLoader
    dim: int
    batch_size: int

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
            rows.append(self._embed_pixels(torch.from_numpy(np.stack(batch))))
        return normalize(torch.cat(rows), dim=-1) if rows else torch.zeros(0, self.dim)

    @abstractmethod
    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels `(n, channels, height, width)` -> `(n, dim)`, on the CPU."""

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
