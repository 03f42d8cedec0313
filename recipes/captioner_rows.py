"""The captioners that `dlink demo` and `dlink study` compare: a row is a bridge and a text condition.

All start from one that has learned to read the embeddings of captions as they are. From there each is trained on text
alone (zero-shot) and then on audio (supervised), in the same number of steps on the same captions in the same order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlink_adapter import BRIDGES, PairedEmbeddings, load_bridge
from dlink_adapter.baselines.closed_form import ClosedForm
from dlink_adapter.captioner.conditions import PseudoAudio
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.training import train_captioner
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner
from dlink_adapter.recipes.captioner_settings import CaptionerSteps
from dlink_adapter.stages import Stages
from dlink_adapter.training.config import TrainerConfig

SETUPS = ("zero_shot", "supervised")
PREFIX: dict[str, Any] = {"prefix_tokens": 4, "hidden": 256, "after": "\n", "text_condition": "clean"}  # of all of them


class Row(NamedTuple):
    """A bridge, by its folder in `bridges`, and the text condition that a captioner is trained with behind it."""

    bridge: str
    condition: str
    sigma: float = 0.0  # of the condition gaussian

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"{self.bridge}, {self.condition}".replace("_", " ")

    @property
    def text_training(self) -> str:
        """The name of its training on text. Rows share it where their bridges have no part in it."""
        text_stays = self.bridge in BRIDGES and issubclass(BRIDGES[self.bridge], ClosedForm)
        if self.condition == "clean" or (self.condition == "bridged" and text_stays):
            return "clean"
        return f"gaussian-{self.sigma:g}" if self.condition == "gaussian" else f"{self.bridge}+{self.condition}"


@dataclass(frozen=True)
class CaptionerRows:
    """What the captioners are trained and tested on, and how.

    Args:
        pairs: those of the supervised training, on which pseudo-audio is fitted too.
        test: the clips to caption.
        text: (n, dim) the embeddings of the captions to train on.
        captions: those captions.
        config: settings of the captioner.
        steps: of the trainings.
        seed: of the weights, the order and the noise.
        out: folder with `bridges`; the captioners go to `captioners`.
    """

    pairs: PairedEmbeddings
    test: PairedEmbeddings
    text: Tensor
    captions: Sequence[str]
    config: CaptionerConfig
    steps: CaptionerSteps
    seed: int
    out: Path

    def settings(self) -> dict[str, Any]:
        """What tells one comparison from another, beside the pairs and the test clips."""
        text = hashlib.sha256("\n".join(self.captions).encode() + self.text.contiguous().numpy().tobytes())
        of_llm = {"llm": self.config.base_model, "quantize": self.config.quantize}
        return {**of_llm, "steps": asdict(self.steps), "text": text.hexdigest()}

    @staticmethod
    def stages(rows: dict[str, Row]) -> int:
        """How many stages `run` has."""
        return 1 + len({row.text_training for row in rows.values()}) + len(rows)

    def run(self, rows: dict[str, Row], stages: Stages) -> dict[str, dict[str, list[str]]]:
        """The captions of the test clips by label and set-up; each training on text and each row is a stage."""
        made = self.out / "captioners"
        first = next(iter(rows.values()))
        stages("start", "teach a captioner to read embeddings", partial(self._start, first), made / "start")
        trained: dict[str, Row] = {}
        for row in rows.values():
            trained.setdefault(row.text_training, row)  # behind the first that shares it
        for name, row in trained.items():
            title = f"train on text: {name.replace('_', ' ')}"
            stages(f"text_{name}", title, partial(self._text_only, row), made / name)
        said = {}
        for label, row in rows.items():
            title = f"caption, and train on audio: {label.replace('_', ' ')}"
            said[label] = stages(f"captions_{row.bridge}+{row.text_training}", title, partial(self._captions, row))
        return said

    def _start(self, row: Row) -> None:
        """Learn to read embeddings, of captions as they are: the bridge has no part in it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            captioner = new_captioner(load_bridge(self.out / "bridges" / row.bridge), self.config)
        self._train_on_text(captioner, TrainerConfig(steps=self.steps.start, lr=4e-3, seed=self.seed))
        captioner.save_pretrained(self.out / "captioners" / "start")

    def _text_only(self, row: Row) -> None:
        """Train in the row's condition."""
        captioner = self._loaded("start", row)
        captioner.set_text_condition(row.condition, row.sigma)
        if isinstance(captioner.text_condition, PseudoAudio):
            captioner.text_condition.fit(self.pairs)
        self._train_on_text(captioner, TrainerConfig(steps=self.steps.text, lr=2e-3, seed=self.seed))
        captioner.save_pretrained(self.out / "captioners" / row.text_training)

    def _captions(self, row: Row) -> dict[str, list[str]]:
        """Caption the test clips after the training on text, and again after the one on audio."""
        captioner = self._loaded(row.text_training, row)
        said = {"zero_shot": captioner.generate(self.test.audio)}
        if not self.steps.audio:
            return said
        training = TrainerConfig(steps=self.steps.audio, lr=5e-4, seed=self.seed)
        captions = [of_clip[0] for of_clip in self.pairs.captions]
        train_captioner(captioner, captions, audio=self.pairs.audio, config=training)
        return said | {"supervised": captioner.generate(self.test.audio)}

    def _loaded(self, name: str, row: Row) -> Captioner:
        captioner = load_captioner(self.out / "captioners" / name)
        captioner.set_bridge(load_bridge(self.out / "bridges" / row.bridge))
        return captioner

    def _train_on_text(self, captioner: Captioner, config: TrainerConfig) -> None:
        train_captioner(captioner, self.captions, text=self.text, config=config)
