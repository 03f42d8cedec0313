"""What a command line sets of captioners. This file imports no torch, so that help need not wait for it."""

from dataclasses import dataclass

from dlink_adapter.captioner.config import CaptionerConfig


@dataclass(frozen=True)
class CaptionerSettings(CaptionerConfig):
    """The settings of the captioner, `CaptionerConfig`; an empty text_condition is that of `init`, or bridged."""

    text_condition: str = ""

    def __post_init__(self) -> None:
        """They are checked when it is known what they are for."""


@dataclass(frozen=True)
class CaptionerSteps:
    """Steps of every captioner: to learn to read, on text in the row's condition, and on audio, if any."""

    start: int = 1600
    text: int = 400
    audio: int = 200
