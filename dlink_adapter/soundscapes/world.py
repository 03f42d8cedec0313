"""The data sets of the demo: who learns from what, as with real encoders and language models.

encoder   clips and captions that the CLAP is trained on
pairs     other clips, with a caption each, that the bridges and the supervised captioners are trained on
text      captions of scenes that nobody hears, for the language model and the text-only captioners
val, test clips with five captions each, of combinations of events that occur in none of the others
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from dlink_adapter.soundscapes.captions import describe, references
from dlink_adapter.soundscapes.scenes import Scene, render_all, sample_scenes
from dlink_adapter.soundscapes.synthesis import Signal

# The kinds that a CLAP of a million parameters can tell apart after two minutes; the ten of ESC-10 are among them.
EVENTS = (
    "dog_bark", "cat_meow", "rooster", "bird_chirps", "cow_moo", "crickets", "owl_hoot", "baby_cry", "sneeze",
    "laughter", "footsteps", "whistling", "rain", "thunder", "sea_waves", "fire_crackling", "water_drip",
    "siren", "car_horn", "engine_idling", "helicopter", "chainsaw", "train", "door_knock", "clock_tick",
    "church_bell", "phone_ring", "hammer",
)  # fmt: skip
OWNERS = {"encoder": "train", "pairs": "train", "text": "train", "val": "val", "test": "test"}
REFERENCES = {"encoder": 1, "pairs": 1, "text": 2, "val": 5, "test": 5}


@dataclass(frozen=True)
class World:
    """Scenes by data set, with their captions and sounds; the same seed and sizes give the same world.

    Args:
        seed: of everything.
        sizes: scenes in each of `OWNERS`.
        rate: of the sounds, in Hz.
    """

    seed: int
    sizes: dict[str, int] = field(hash=False)
    rate: int = 16_000

    @cache  # noqa: B019 (a world lives as long as the process)
    def scenes(self, name: str) -> list[Scene]:
        """The scenes of a data set."""
        return sample_scenes(self.sizes[name], OWNERS[name], self._seed(name), EVENTS)

    def captions(self, name: str) -> list[list[str]]:
        """For each scene one, two or five captions."""
        count, seed = REFERENCES[name], self._seed(name)
        if count > 1:
            return [references(scene, count, seed) for scene in self.scenes(name)]
        return [[describe(scene, np.random.default_rng([seed, scene.seed]))] for scene in self.scenes(name)]

    def waveforms(self, name: str) -> Signal:
        """The sounds, (scenes, samples)."""
        return render_all(self.scenes(name), self.rate)

    def _seed(self, name: str) -> int:
        return self.seed * len(OWNERS) + list(OWNERS).index(name)
