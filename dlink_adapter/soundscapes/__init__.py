"""Synthetic scenes of sounds with true captions, generated from a seed, without a download."""

from dlink_adapter.soundscapes.captions import describe, references
from dlink_adapter.soundscapes.events import EVENTS
from dlink_adapter.soundscapes.events.event import Event, Phrase
from dlink_adapter.soundscapes.scenes import Placed, Scene, render, render_all, sample_scenes, write_wav

__all__ = [
    "EVENTS", "Event", "Phrase", "Placed", "Scene", "describe", "references", "render", "render_all", "sample_scenes",
    "write_wav",
]  # fmt: skip
