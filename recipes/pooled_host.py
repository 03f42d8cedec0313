"""What the hosts of `dlink pooled-hosts` have in common: a language model that answers to one embedding."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dlink_adapter.attachment.hosts import HOSTS

IGNORED = -100  # the label that transformers' loss leaves out
LONGEST = 40  # tokens of an answer


class PooledHost(nn.Module):
    """A causal language model that starts from an embedding x (n, dim), which its projector puts among the tokens.

    A subclass has the projector, and names the attribute of the language model and the text around the embedding.
    """

    llm_name: ClassVar[str]
    before: ClassVar[str] = ""
    after: ClassVar[str] = ""

    def __init__(self, llm: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        setattr(self, self.llm_name, llm)
        self.tokenizer = tokenizer

    @property
    def language_model(self) -> Any:
        """The language model, by its one name."""
        return getattr(self, self.llm_name)

    @property
    def width(self) -> int:
        """The size of its token embeddings."""
        return int(self.language_model.config.hidden_size)

    def prefix(self, x: Tensor) -> Tensor:
        """(n, dim) -> (n, k, width), what the projector makes of an embedding: the one that `attach` knows."""
        projected: Tensor = getattr(self, HOSTS[type(self).__name__].target)(x)
        return projected

    def start(self, x: Tensor) -> Tensor:
        """(n, dim) -> (n, length, width), all that comes before the answer."""
        before, after = (self._embed(text).expand(len(x), -1, -1) for text in (self.before, self.after))
        return torch.cat([before, self.prefix(x), after], dim=1)

    def forward(self, x: Tensor, answers: Sequence[str]) -> Tensor:
        """The mean negative log-likelihood of a token of the answers, in nats, given embeddings (n, dim)."""
        start, closed = self.start(x), [f"{answer}{self.tokenizer.eos_token}" for answer in answers]
        tokens = self.tokenizer(closed, padding=True, add_special_tokens=False, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        seen = torch.cat([mask.new_ones(start.shape[:2]), mask], dim=1)
        labels = torch.cat([ids.new_full(start.shape[:2], IGNORED), ids.masked_fill(mask == 0, IGNORED)], dim=1)
        embeds = torch.cat([start, self.language_model.get_input_embeddings()(ids)], dim=1)
        loss: Tensor = self.language_model(inputs_embeds=embeds, attention_mask=seen, labels=labels).loss
        return loss

    @torch.no_grad()
    def answer(self, x: Tensor) -> list[str]:
        """Greedy answers to embeddings (n, dim)."""
        start = self.start(x)
        ids = self.language_model.generate(
            inputs_embeds=start,
            attention_mask=torch.ones(start.shape[:2], dtype=torch.long),
            max_new_tokens=LONGEST,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _embed(self, text: str) -> Tensor:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        embedded: Tensor = self.language_model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))
        return embedded
