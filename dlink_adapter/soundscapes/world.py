"""The data sets of a procedural world. The encoder, the bridges and the language model train on disjoint sets.

encoder   clips with five captions each, to train the CLAP
pairs     clips with one caption each, to train the bridges and the supervised captioners
text      two captions per scene, not rendered, to train the language model and the text-only captioners
val, test clips with five captions each; their combinations of events occur in no other set
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from dlink_adapter.soundscapes.captions import describe, references
from dlink_adapter.soundscapes.scenes import Scene, render_all, sample_scenes
from dlink_adapter.soundscapes.synthesis import Signal

# Kinds that can be told apart by ear; they include the ten of ESC-10.
EVENTS = (
    "dog_bark", "cat_meow", "rooster", "bird_chirps", "cow_moo", "crickets", "owl_hoot", "baby_cry", "sneeze",
    "laughter", "footsteps", "whistling", "rain", "thunder", "sea_waves", "fire_crackling", "water_drip",
    "siren", "car_horn", "engine_idling", "helicopter", "chainsaw", "train", "door_knock", "clock_tick",
    "church_bell", "phone_ring", "hammer", "snoring", "glass_clink", "alarm_beep", "clapping",
)  # fmt: skip
OWNERS = {"encoder": "train", "pairs": "train", "text": "train", "val": "val", "test": "test"}  # split of each set
REFERENCES = {"encoder": 5, "pairs": 1, "text": 2, "val": 5, "test": 5}  # captions per scene


@dataclass(frozen=True)
class World:
    """The scenes, captions and waveforms of every data set, determined by the seed and the sizes.

    Args:
        seed: seed of the scenes and the captions.
        sizes: number of scenes of each data set in `OWNERS`.
        rate: sampling rate in Hz.
    """

    seed: int
    sizes: dict[str, int] = field(hash=False)
    rate: int = 16_000

    @cache  # noqa: B019 (a world lives as long as the process)
    def scenes(self, name: str) -> list[Scene]:
        """The scenes of a data set."""
        return sample_scenes(self.sizes[name], OWNERS[name], self._seed(name), EVENTS)

    def captions(self, name: str) -> list[list[str]]:
        """Captions of each scene, `REFERENCES[name]` of them."""
        count, seed = REFERENCES[name], self._seed(name)
        if count > 1:
            return [references(scene, count, seed) for scene in self.scenes(name)]
        return [[describe(scene, np.random.default_rng([seed, scene.seed]))] for scene in self.scenes(name)]

    def waveforms(self, name: str) -> Signal:
        """Audio of all scenes, (scenes, samples) float32."""
        return render_all(self.scenes(name), self.rate)

    def _seed(self, name: str) -> int:
        return self.seed * len(OWNERS) + list(OWNERS).index(name)
