"""CLIP and SigLIP through transformers, as encoders of images and text.

Any `CLIPModel` (Radford et al., ICML 2021) or `SiglipModel` (Zhai et al., ICCV 2023; also the fixed-resolution
checkpoints of SigLIP 2) on the hub or in a local folder.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dlink_adapter.extract.encoders import fingerprint, pooled
from dlink_adapter.integrations.two_towers import TwoTowers, settings_of

try:
    from PIL import Image
    from transformers import AutoImageProcessor, CLIPModel, SiglipModel

    from dlink_adapter.integrations.images import ImageLoader, ImageTower
except ImportError as error:
    raise ImportError('CLIP needs transformers and pillow: pip install "dlink-adapter[clip]"') from error

# Settings that change the outputs of a model with the same weights.
VISION_SETTINGS = ("image_size", "num_attention_heads", "patch_size")
TEXT_SETTINGS = ("max_position_embeddings", "num_attention_heads")
IMAGE_SETTINGS = (
    "do_center_crop", "do_normalize", "do_resize", "image_mean", "image_std", "resample", "rescale_factor",
)  # fmt: skip


class ProcessorLoader(ImageLoader):
    """Image files to pixels by a processor of transformers."""

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        return np.asarray(self.processor(image, return_tensors="np")["pixel_values"][0], dtype=np.float32)


class ClipEncoder(ImageTower, TwoTowers):
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
        self.load = ProcessorLoader(processor)
        settings = settings_of((model.config.vision_config, VISION_SETTINGS), (text, TEXT_SETTINGS))
        settings.append({name: processor.to_dict().get(name) for name in IMAGE_SETTINGS})
        self.fingerprint = fingerprint(model, settings, tokenizer.get_vocab())

    def describe(self) -> dict[str, Any]:
        """Id, revision, fingerprint and the size of an image in pixels."""
        names = ("id", "revision", "fingerprint")
        return {name: getattr(self, name) for name in names} | {"pixels": self.model.config.vision_config.image_size}

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        return pooled(self.model.get_image_features(pixel_values=pixels.to(self.model.device)), self.dim)
