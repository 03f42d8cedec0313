"""The README of a saved bridge: what it is, how to use it, its settings and what was measured."""

import json
from typing import Any

CARD = """---
library_name: dlink-adapter
tags: [dlink-adapter, modality-gap, multimodal]
---

# {name}: embeddings of a frozen encoder, made text-like

```python
from dlink_adapter import load_bridge

bridge = load_bridge("this folder or repository")
text_like = bridge(embeddings)  # (..., {dim}) -> (..., {dim})
```

{sections}
"""


def model_card(name: str, config: dict[str, Any], metadata: dict[str, Any]) -> str:
    """The card as Markdown: a table of the config, the plain metadata, and a table for each group of measurements."""
    plain = {key: value for key, value in metadata.items() if not isinstance(value, dict)}
    groups = {key: value for key, value in metadata.items() if isinstance(value, dict)}
    sections = {"config": config} | ({"metadata": plain} if plain else {}) | groups
    return CARD.format(
        name=name, dim=config["dim"], sections="\n\n".join(_section(key, rows) for key, rows in sections.items())
    )


def _section(title: str, rows: dict[str, Any]) -> str:
    lines = [f"| {key} | {json.dumps(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title.replace('_', ' ')}", "", "| | |", "|---|---|", *lines])
