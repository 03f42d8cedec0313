"""The model card of a small CLAP: how it was made, by which command, and what it scored."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

BODY = """# A small CLAP that hears procedural sounds

A `ClapModel` of HTSAT and RoBERTa for clips of 5 s at 16 kHz. It learned from {scenes:,} procedural scenes with five
captions each, {epochs} times over, and never from a recording: use it to try things out, not for work on real audio.

```python
from dlink_adapter.integrations.transformers_clap import ClapEncoder

encoder = ClapEncoder.from_pretrained("small")  # or this folder
```

Made by `dlink train-small-clap --out OUT` in {minutes:.0f} minutes; `training_log.jsonl` has its losses,
`scores.json` every setting. On {test_scenes:,} scenes whose combinations of events it never heard, five captions each:

{scores}

The sounds were tuned with an eye on folds 1 to 3 of ESC-10 (Piczak, 2015), whose recordings it was not trained on.
"""


def clap_card(record: dict[str, Any]) -> str:
    """The card as Markdown, with the hub's header; `record` is what scores.json holds."""
    header = ModelCardData(
        library_name="transformers", pipeline_tag="feature-extraction", license="apache-2.0", tags=["clap", "audio"]
    )
    lines = [f"| {name} | {value:.3f} |" for name, value in record["scores"].items()]
    body = BODY.format(
        minutes=sum(record["seconds"].values()) / 60,
        scores="\n".join(["| | |", "|---|---|", *lines]),
        **record["settings"],
    )
    return str(ModelCard(f"---\n{header}\n---\n\n{body}", ignore_metadata_errors=True))
