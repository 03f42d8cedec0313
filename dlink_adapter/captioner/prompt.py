"""The prompt around the prefix tokens, as token ids."""

from typing import Any

from dlink_adapter.captioner.config import CaptionerConfig

PREFIX_MARK = "<the prefix tokens>"  # where they stand in a chat template's text


def prompt_ids(tokenizer: Any, config: CaptionerConfig) -> tuple[list[int], list[int]]:
    """Token ids before and after the prefix: [BOS] before, after; or the same inside the tokenizer's chat template."""
    before, after = config.before, config.after
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if config.chat:
        turn = [{"role": "user", "content": before + PREFIX_MARK + after}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        before, _, after = text.partition(PREFIX_MARK)
        bos = []  # the template has its own
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in (before, after)]
    return bos + ids[0], ids[1]
