"""The model card of a small CLAP: how it was made, by which command, and what it scored."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

BODY = """# A small CLAP that hears procedural sounds

A `ClapModel` of HTSAT and RoBERTa for clips of 5 s at 16 kHz. It learned from {scenes:,} procedural scenes with five
captions each, in {steps:,} steps of {batch_size} clips, and never from a recording: use it to try things out, not for
work on real audio.

```python
from dlink_adapter.integrations.transformers_clap import ClapEncoder

encoder = ClapEncoder.from_pretrained("small")  # or this folder
```

Made by `dlink train-small-clap`, with the settings in `scores.json`; `training_log.jsonl` has the losses. On
{test_scenes:,} scenes whose combinations of events it never heard, five captions each:

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
        scores="\n".join(["| | |", "|---|---|", *lines]),
        **record["settings"]["training"],
        **{name: record["settings"][name] for name in ("scenes", "test_scenes")},
    )
    return str(ModelCard(f"---\n{header}\n---\n\n{body}", ignore_metadata_errors=True))
