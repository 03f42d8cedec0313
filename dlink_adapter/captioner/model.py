"""A captioner: bridge, prefix projector and causal language model.

[BOS] before [k prefix tokens] after caption [EOS]: the projector turns one bridged embedding into k vectors of the
LLM's width (ClipCap, Mokady et al., 2021). Trained on text alone, it sees a text condition of captions in place of
bridged audio, and audio when it is used.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.hub import Shareable
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.captioner.conditions import TEXT_CONDITIONS
from dlink_adapter.captioner.config import BRIDGE_FOLDER, PATHS, CaptionerConfig, write_captioner_config
from dlink_adapter.files import write_atomically

PROJECTOR_FILE, CONDITION_FILE, ADAPTER_FOLDER = "projector.safetensors", "text_condition.safetensors", "adapter"
CARD_FILE, CARD = (
    "README.md",
    """---
library_name: dlink-adapter
tags: [dlink-adapter, audio-captioning, multimodal]
base_model: {base_model}
---

# Captions of embeddings by {base_model}, behind a {bridge} bridge

```python
from dlink_adapter.integrations.causal_lm import load_captioner

captioner = load_captioner("this folder or repository")
captioner.generate(embeddings)  # (n, {dim}) of the encoder that the bridge was fitted on
```

In training, a caption stood in for audio as: {condition}. The bridge and this condition hold {rows} embeddings of the
training pairs.
""",
)
PREFIX_MARK = "<the prefix tokens>"  # where they stand in a chat template's text
IGNORED = -100  # the label that transformers' loss leaves out


class PrefixProjector(nn.Sequential):
    """Embeddings (n, dim) -> prefix tokens (n, k, width) of the language model, by an MLP."""

    def __init__(self, dim: int, hidden: int, tokens: int, width: int):
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, tokens * width))
        self.scale, self.tokens = dim**0.5, tokens  # unit-norm input: bring its entries to unit variance

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = super().forward(x.to(next(self.parameters()).dtype) * self.scale)
        return rearrange(projected, "n (k width) -> n k width", k=self.tokens)


class Captioner(nn.Module, Shareable):
    """Captions embeddings of a frozen encoder with a language model.

    Args:
        bridge: any of `BRIDGES`; it is frozen here.
        llm: a `transformers` causal language model, or a `PeftModel` around one.
        tokenizer: its tokenizer, with an EOS token.
        config: the settings; `dlink_adapter.integrations.causal_lm` loads `llm` and `tokenizer` by them.
    """

    accepts_loss_kwargs = True  # tells Trainer to count the tokens of a whole step

    def __init__(self, bridge: Bridge, llm: Any, tokenizer: Any, config: CaptionerConfig):
        super().__init__()
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {config.base_model} has no EOS token, so that captions would never end")
        if config.chat and not getattr(tokenizer, "chat_template", None):
            raise ValueError(f"the tokenizer of {config.base_model} has no chat template: use chat=False")
        self.settings = config  # not `config`: Trainer writes into the config of a model
        self.tokenizer, self.llm = tokenizer, llm
        self.text_condition = TEXT_CONDITIONS[config.text_condition](bridge.dim, config.sigma).requires_grad_(False)
        width = llm.get_input_embeddings().embedding_dim
        self.projector = PrefixProjector(bridge.dim, config.hidden, config.prefix_tokens, width)
        device = llm.get_input_embeddings().weight.device
        if device.type != "meta":  # offloaded: accelerate moves it
            self.projector.to(device)
        self.set_bridge(bridge)

    def set_bridge(self, bridge: Bridge) -> None:
        """Take another bridge in place of the one that is there: frozen, and moved to where the projector lies."""
        device = next(self.projector.parameters()).device
        self.bridge = bridge.requires_grad_(False).eval().to(device)
        self.text_condition.to(device)

    def set_text_condition(self, name: str, sigma: float = 0.0) -> None:
        """Train with another text condition from here on; `pseudo_audio` has to be fitted."""
        self.settings = replace(self.settings, text_condition=name, sigma=sigma)
        self.text_condition = TEXT_CONDITIONS[name](self.bridge.dim, sigma).requires_grad_(False)
        self.set_bridge(self.bridge)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but the frozen bridge stays in eval mode: it has noise while training, and no dropout."""
        super().train(mode)
        self.bridge.eval()
        if mode and self.settings.quantize in ("nf4", "fp4"):
            # In eval mode on a CPU, bitsandbytes packs 4-bit weights into a form without gradients. Reading the state
            # dict unpacks them.
            self.llm.state_dict()
        return self

    def prefix(self, embedding: Tensor, is_text: Tensor, generator: Draws = None, samples: int | None = None) -> Tensor:
        """Embeddings (n, dim), of captions where is_text (n,) and else of audio -> prefix tokens (n, k, width).

        Audio goes through the bridge, in `samples` draws, captions through the text condition. While training, both
        draw fresh noise, from the generator, or from one for each row.
        """
        if self.training and generator is None:
            generator = Generator(embedding.device).manual_seed(int(torch.randint(2**62, ())))
        with torch.no_grad():
            condition = torch.empty_like(embedding)
            for rows, of_text in ((is_text, True), (~is_text, False)):
                part, drawn = embedding[rows], generator
                if not len(part):
                    continue
                if not (generator is None or isinstance(generator, Generator)):
                    drawn = [of_row for of_row, chosen in zip(generator, rows.tolist(), strict=True) if chosen]
                if of_text:
                    condition[rows] = self.text_condition(part, self.bridge, drawn).to(part)
                else:
                    condition[rows] = self.bridge(part, generator=drawn, samples=samples)
        prefix: Tensor = self.projector(condition)
        return prefix

    def forward(
        self,
        embedding: Tensor,
        is_text: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        seed: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """The language-model loss of captions (n, length), right-padded, given embeddings (n, dim).

        Args:
            labels: (n, length), `IGNORED` where a token does not count; by default every token counts that is seen.
            seed: (n,) of the noise of each row, so that it does not depend on how rows are batched.
            num_items_in_batch: the tokens of a step that these rows are a part of, by which its loss is divided.
        """
        seeds = None if seed is None else seed.tolist()
        generators = seeds and [Generator(embedding.device).manual_seed(of_row) for of_row in seeds]
        start = self._start(self.prefix(embedding, is_text, generators))
        embeds = torch.cat([start, self._embed(input_ids)], dim=1)
        seen = torch.cat([attention_mask.new_ones(start.shape[:2]), attention_mask], dim=1)
        if labels is None:
            labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
        share = 1 if num_items_in_batch is None else (labels != IGNORED).sum() / num_items_in_batch
        labels = torch.cat([labels.new_full(start.shape[:2], IGNORED), labels], dim=1)
        return {"loss": self.llm(inputs_embeds=embeds, attention_mask=seen, labels=labels).loss * share}

    @torch.no_grad()
    def generate(
        self,
        embedding: Tensor,
        *,
        modality: str = "audio",
        batch_size: int = 64,
        generator: Draws = None,
        samples: int | None = None,
        **options: Any,
    ) -> list[str]:
        """Captions of embeddings (n, dim). `options` go to the LLM's `generate`: num_beams, do_sample, ..."""
        self.eval()
        device = next(self.projector.parameters()).device
        settings = {"max_new_tokens": self.settings.max_caption_tokens, "do_sample": False, **options}
        captions: list[str] = []
        for rows in embedding.to(device).split(batch_size) if len(embedding) else ():
            is_text = torch.full((len(rows),), modality == "text", device=device)
            start = self._start(self.prefix(rows, is_text, generator, samples))
            tokens = self.llm.generate(
                inputs_embeds=start,
                attention_mask=torch.ones(start.shape[:2], dtype=torch.long, device=device),
                pad_token_id=self.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                **settings,
            )
            captions += [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return captions

    @torch.no_grad()
    def log_likelihood(self, condition: Tensor, captions: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """The log-likelihood (n,) in nats of each caption given its condition (n, dim), bridged audio, on the CPU."""
        device, found = next(self.projector.parameters()).device, []
        for rows in torch.arange(len(captions)).split(batch_size):
            ids = [torch.tensor(of_caption) for of_caption in self.tokenize([captions[row] for row in rows])]
            tokens = pad_sequence(ids, batch_first=True, padding_value=IGNORED).to(device)
            start = self._start(self.projector(condition[rows].to(device)))
            embeds = torch.cat([start, self._embed(tokens.clamp_min(0))], dim=1)
            logits = self.llm(inputs_embeds=embeds).logits[:, start.shape[1] - 1 : -1]
            loss = cross_entropy(logits.float().transpose(1, 2), tokens, ignore_index=IGNORED, reduction="none")
            found.append(-loss.sum(-1).cpu())
        return torch.cat(found)

    @property
    def pad_token_id(self) -> int:
        """The padding token, or EOS where the tokenizer has none: padding is masked in any case."""
        tokenizer = self.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of captions, without BOS, cut to the maximum and closed with EOS."""
        room = self.settings.max_caption_tokens - 1
        lead = " " if self.settings.after and not self.settings.chat else ""
        ids = self.tokenizer([lead + caption for caption in captions], add_special_tokens=False)["input_ids"]
        return [[*of_caption[:room], self.tokenizer.eos_token_id] for of_caption in ids]

    def merge(self) -> Self:
        """Merge the LoRA into the language model, in place: captions cost less, and it is saved whole.

        Raises:
            ValueError: no LoRA, or one on a quantised model, whose weights it would be rounded to.
        """
        if self.settings.tuning != "lora":
            raise ValueError(f"tuning is {self.settings.tuning!r}: there is no LoRA to merge")
        if self.settings.quantize is not None:
            raise ValueError(
                f"the LoRA would be rounded to {self.settings.quantize} weights: load_captioner(folder, quantize=None) "
                "and merge that"
            )
        self.llm = self.llm.merge_and_unload()
        self.settings = replace(self.settings, tuning="full")
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Save bridge, projector, LoRA (or the tuned model), a card and a small JSON that names the base model."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.bridge.save_pretrained(folder / BRIDGE_FOLDER)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.projector.state_dict().items()}
        write_atomically(folder / PROJECTOR_FILE, save(tensors))
        if state := self.text_condition.state_dict():
            write_atomically(folder / CONDITION_FILE, save({name: tensor.cpu() for name, tensor in state.items()}))
        else:  # what another condition left there
            (folder / CONDITION_FILE).unlink(missing_ok=True)
        if self.settings.tuning != "frozen":
            self.llm.save_pretrained(folder / ADAPTER_FOLDER)
        base_model = write_captioner_config(folder, self.settings).base_model
        rows = self.bridge.training_rows + self.text_condition.training_rows
        about = {"bridge": self.bridge.name, "dim": self.bridge.dim, "condition": self.settings.text_condition}
        write_atomically(folder / CARD_FILE, CARD.format(base_model=base_model, rows=rows, **about))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """As of a bridge. Raises ValueError where the base model or the encoder is a folder of this machine."""
        for name in PATHS:
            if getattr(self.settings, name) and Path(getattr(self.settings, name)).is_dir():
                raise ValueError(
                    f"{name} is the folder {getattr(self.settings, name)}, which nobody else has: push that to the hub "
                    "first, and name its repository in the captioner's settings"
                )
        return super().push_to_hub(repo_id, **options)

    def load_trained(self, folder: str | Path) -> None:
        """Load what `save_pretrained` wrote of the projector and the text condition."""
        self.projector.load_state_dict(load_file(Path(folder, PROJECTOR_FILE)))
        if self.text_condition.state_dict():
            self.text_condition.load_state_dict(load_file(Path(folder, CONDITION_FILE)))

    def _start(self, prefix: Tensor) -> Tensor:
        """The prompt around the prefix, embedded: (n, length, width)."""
        before, after = self._prompt()
        opening, closing = self._embed_prompt(before, prefix), self._embed_prompt(after, prefix)
        return torch.cat([opening, prefix.to(opening.dtype), closing], dim=1)

    def _prompt(self) -> tuple[list[int], list[int]]:
        """Token ids before and after the prefix: [BOS] before, after; or the same inside a chat template."""
        before, after = self.settings.before, self.settings.after
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        if self.settings.chat:
            turn = [{"role": "user", "content": before + PREFIX_MARK + after}]
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            before, _, after = text.partition(PREFIX_MARK)
            bos = []  # the template has its own
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in (before, after)]
        return bos + ids[0], ids[1]

    def _embed_prompt(self, ids: list[int], prefix: Tensor) -> Tensor:
        tokens = torch.tensor(ids, dtype=torch.long, device=prefix.device).expand(len(prefix), len(ids))
        return self._embed(tokens)

    def _embed(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.llm.get_input_embeddings()(input_ids)
        return embedded
