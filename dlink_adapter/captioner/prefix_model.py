"""The model that is trained, and captions embeddings: bridge, prefix projector and causal language model.

[BOS] before [k prefix tokens] after caption [EOS]: the projector turns one bridged embedding into k vectors of the
LLM's width (ClipCap, Mokady et al., 2021). Trained on text alone, it sees a text condition of captions in place of
bridged audio, and audio when it is used.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import check_modality
from dlink_adapter.captioner.conditions import TEXT_CONDITIONS
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.generation import generation_settings, in_eval_mode
from dlink_adapter.captioner.prompt import prompt_ids

IGNORED = -100  # the label that transformers' loss leaves out


class PrefixProjector(nn.Sequential):
    """Embeddings (n, dim) -> prefix tokens (n, k, width) of the language model, by an MLP."""

    def __init__(self, dim: int, hidden: int, tokens: int, width: int):
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, tokens * width))
        self.scale, self.tokens = dim**0.5, tokens  # unit-norm input: bring its entries to unit variance

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = super().forward(x.to(next(self.parameters()).dtype) * self.scale)
        return rearrange(projected, "n (k width) -> n k width", k=self.tokens)


class PrefixModel(nn.Module):
    """A language model that goes on from an embedding of a frozen encoder.

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
            # dict unpacks them, with scales that are rounded once.
            self.llm.state_dict()
        return self

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **options: Any) -> None:
        """Let the language model compute its activations again in the backward pass; Trainer calls this."""
        kwargs = gradient_checkpointing_kwargs or {"use_reentrant": False}  # a reentrant one fails under DDP
        self.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs, **options)

    def print_trainable_parameters(self) -> None:
        """Print, as peft does, how many parameters are trained and how many there are; a 4-bit weight counts as one."""
        from peft import PeftModel

        trained, all_of_them = PeftModel.get_nb_trainable_parameters(self)
        share = 100 * trained / all_of_them
        print(f"trainable params: {trained:,} || all params: {all_of_them:,} || trainable%: {share:.4f}")

    def prefix(self, embedding: Tensor, is_text: Tensor, generator: Draws = None, samples: int | None = None) -> Tensor:
        """Embeddings (n, dim), of captions where is_text (n,) and else of audio -> prefix tokens (n, k, width).

        Audio goes through the bridge, which averages `samples` draws, captions through the text condition. While
        training, both draw fresh noise, from the generator, or from one for each row.
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
        embedding: Tensor | NDArray[Any],
        *,
        modality: str = "audio",
        batch_size: int = 64,
        generator: Draws = None,
        samples: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Captions of embeddings (n, dim): n strings, or n lists of k where `num_return_sequences` is k above 1.

        A batch has no padding, but kernels round by its size: in bfloat16 and float16 another `batch_size` may give
        another caption where two tokens are almost equally likely.

        Args:
            embedding: of the encoder that the bridge was fitted on.
            modality: "audio" for the tower that is bridged, "text" for captions.
            batch_size: rows that are captioned together; a `streamer` takes 1.
            generator: makes a stochastic bridge repeatable; or one for each row of a single batch.
            samples: draws of a stochastic bridge to average; None takes its config's.
            options: of transformers' `generate`: generation_config, num_beams, do_sample, eos_token_id, streamer, ...
                Unless they say otherwise, decoding is greedy and ends at EOS or after `max_caption_tokens`.

        Raises:
            ValueError: another width or modality, or `return_dict_in_generate`; `inputs_embeds` leads to what it asks.
        """
        ends = {"eos_token_id": self.tokenizer.eos_token_id, "pad_token_id": self.pad_token_id}
        defaults = {"max_new_tokens": self.settings.max_caption_tokens, "do_sample": False, **ends}
        settings, count = generation_settings(defaults, options)
        said: list[str] = []
        with in_eval_mode(self):
            for rows in torch.as_tensor(embedding).split(batch_size) if len(embedding) else ():
                start = self.inputs_embeds(rows, modality=modality, generator=generator, samples=samples)
                seen = torch.ones(start.shape[:2], dtype=torch.long, device=start.device)
                tokens = self.llm.generate(inputs_embeds=start, attention_mask=seen, **settings)
                said += [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return said if count == 1 else [said[row : row + count] for row in range(0, len(said), count)]

    @torch.no_grad()
    def log_likelihood(self, condition: Tensor, captions: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """The log-likelihood (n,) in nats of each caption given bridged audio (n, dim), on the CPU."""
        device, found = next(self.projector.parameters()).device, []
        with in_eval_mode(self):
            for rows in torch.arange(len(captions)).split(batch_size):
                ids = [torch.tensor(of_row) for of_row in self.tokenize([captions[row] for row in rows])]
                tokens = pad_sequence(ids, batch_first=True, padding_value=IGNORED).to(device)
                start = self._start(self.projector(condition[rows].to(device)))
                embeds = torch.cat([start, self._embed(tokens.clamp_min(0))], dim=1)
                logits = self.llm(inputs_embeds=embeds).logits[:, start.shape[1] - 1 : -1]
                loss = cross_entropy(logits.float().transpose(1, 2), tokens, ignore_index=IGNORED, reduction="none")
                found.append(-loss.sum(-1).cpu())
        return torch.cat(found)

    def inputs_embeds(
        self,
        embedding: Tensor | NDArray[Any],
        *,
        modality: str = "audio",
        generator: Draws = None,
        samples: int | None = None,
    ) -> Tensor:
        """What the language model goes on from for embeddings (n, dim): prompt and prefix, (n, length, width).

        All of it is to be attended to. Raises ValueError on another width or modality.
        """
        check_modality(modality)
        rows = torch.as_tensor(embedding).to(next(self.projector.parameters()).device)
        if rows.ndim != 2 or rows.shape[1] != self.bridge.dim:
            raise ValueError(
                f"expected embeddings (n, {self.bridge.dim}), got {tuple(rows.shape)}: audio goes to caption, as a list"
            )
        is_text = torch.full((len(rows),), modality == "text", device=rows.device)
        return self._start(self.prefix(rows, is_text, generator, samples))

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

    def _start(self, prefix: Tensor) -> Tensor:
        """The prompt around the prefix, embedded: (n, length, width)."""
        before, after = prompt_ids(self.tokenizer, self.settings)
        opening, closing = self._embed_prompt(before, prefix), self._embed_prompt(after, prefix)
        return torch.cat([opening, prefix.to(opening.dtype), closing], dim=1)

    def _embed_prompt(self, ids: list[int], prefix: Tensor) -> Tensor:
        tokens = torch.tensor(ids, dtype=torch.long, device=prefix.device).expand(len(prefix), len(ids))
        return self._embed(tokens)

    def _embed(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.llm.get_input_embeddings()(input_ids)
        return embedded
