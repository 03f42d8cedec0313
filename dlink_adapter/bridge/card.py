"""The model card of a saved bridge: what it is, how to use it, its settings and what was measured."""

import json
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

BODY = """# {name}: embeddings of a frozen encoder, made text-like

```python
from dlink_adapter import load_bridge

bridge = load_bridge("this folder or repository")
text_like = bridge(embeddings)  # (..., {dim}) -> (..., {dim})
```

{contents}

{sections}

{citation}"""
CITATION = """## Citation

```bibtex
@article{diffusion_link,
  title = {Diffusion-Link: Diffusion Probabilistic Model for Bridging the Audio-Text Modality Gap},
  author = {Nam, KiHyun and Choi, Jongmin and Lee, Hyeongkeun and Heo, Jungwoo and Chung, Joon Son},
  journal = {arXiv preprint arXiv:2510.11330},
  year = {2025},
}
```
"""
NO_ROWS = "It holds no embedding of the training pairs."
ROWS = "It holds {count} embeddings of the training pairs: share it as you would share those."


def model_card(
    name: str, config: dict[str, Any], metadata: dict[str, Any], training_rows: int = 0, body: str = BODY
) -> str:
    """The card of a bridge as Markdown, with the hub's header.

    Args:
        name: of the kind of bridge.
        config: its settings.
        metadata: free JSON. The hub's fields `license`, `datasets` and `base_model` go into the header, with
            what `fit` measured behind the bridge.
        training_rows: embeddings of the training pairs that its weights hold.
        body: the text around the settings, a template as `BODY`.
    """
    measured = [
        EvalResult("feature-extraction", "paired-embeddings", "held-out pairs", metric, after)
        for metric, (_, after) in metadata.get("gap_before_and_after", {}).items()
    ]
    header = ModelCardData(
        library_name="dlink-adapter",
        pipeline_tag="feature-extraction",
        tags=["dlink-adapter", "modality-gap", "multimodal", "arxiv:2510.11330"],
        model_name=name,
        eval_results=measured or None,
        license=metadata.get("license"),
        datasets=metadata.get("datasets"),
        base_model=metadata.get("base_model"),
    )
    plain = {key: value for key, value in metadata.items() if not isinstance(value, dict)}
    groups = {key: value for key, value in metadata.items() if isinstance(value, dict)}
    sections = {"config": config} | ({"metadata": plain} if plain else {}) | groups
    text = body.format(
        name=name,
        dim=config["dim"],
        contents=ROWS.format(count=training_rows) if training_rows else NO_ROWS,
        sections="\n\n".join(_section(title, rows) for title, rows in sections.items()),
        citation=CITATION,
    )
    return str(ModelCard(f"---\n{header}\n---\n\n{text}", ignore_metadata_errors=True))


def _section(title: str, rows: dict[str, Any]) -> str:
    lines = [f"| {key} | {json.dumps(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title.replace('_', ' ')}", "", "| | |", "|---|---|", *lines])
