"""How `Captioner.generate` and the options of transformers' `generate` fit together."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def generation_settings(defaults: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What the language model's `generate` is given, and how many captions a clip gets.

    An option goes before what `generation_config` sets, and that before a default.

    Raises:
        ValueError: `return_dict_in_generate`, in either place.
    """
    config = copy.deepcopy(options.get("generation_config"))
    if config is None:
        settings = {**defaults, **options}
        asked, captions = options.get("return_dict_in_generate"), options.get("num_return_sequences")
    else:  # options beside a generation_config are deprecated in transformers
        given = {name: value for name, value in options.items() if name != "generation_config"}
        unset = {name: value for name, value in defaults.items() if getattr(config, name) is None}
        settings = {"generation_config": config, **config.update(**{**unset, **given})}
        asked, captions = config.return_dict_in_generate, config.num_return_sequences
    if asked:
        raise ValueError(
            "generate returns captions: for token ids and scores, call captioner.llm.generate(inputs_embeds="
            "captioner.inputs_embeds(embeddings), return_dict_in_generate=True, ...)"
        )
    return settings, captions or 1


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """A module in eval mode, and back in its own at the end of the block, however that ends."""
    mode = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(mode)
