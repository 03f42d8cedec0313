"""The model card of a saved captioner."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.card import CITATION
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.folders import is_path

BODY = """# Captions by {llm}, behind a {bridge} bridge

```python
from dlink_adapter import Captioner

captioner = Captioner.from_pretrained("this folder or repository")
captioner.caption({sounds})
captioner.generate(embeddings)  # (n, {dim}) of the encoder that the bridge was fitted on
```

In training, a caption stood in for audio as: {condition}. The bridge and this condition hold {rows} embeddings of the
training pairs.

{citation}"""


def captioner_card(config: CaptionerConfig, bridge: Bridge, training_rows: int) -> str:
    """The card as Markdown, with the hub's header.

    Args:
        config: of the captioner, as it is written into its folder.
        bridge: its metadata have `license` and `datasets` for the header, if any.
        training_rows: embeddings of the training pairs that bridge and text condition hold.
    """
    of_images = config.encoder in ("clip", "open_clip")
    header = ModelCardData(
        library_name="dlink-adapter",
        pipeline_tag="image-to-text" if of_images else "audio-text-to-text",
        tags=[
            "dlink-adapter",
            "image-captioning" if of_images else "audio-captioning",
            "multimodal",
            "arxiv:2510.11330",
        ],
        license=bridge.metadata.get("license"),
        datasets=bridge.metadata.get("datasets"),
        base_model=None if is_path(config.base_model) else config.base_model,
    )
    body = BODY.format(
        llm=Path(config.base_model).name,
        bridge=bridge.name,
        sounds='["a.jpg"]' if of_images else '["a.wav", (array, rate)]',
        dim=bridge.dim,
        condition=config.text_condition,
        rows=training_rows,
        citation=CITATION,
    )
    return str(ModelCard(f"---\n{header}\n---\n\n{body}", ignore_metadata_errors=True))
