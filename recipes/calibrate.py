"""Calibrate how sure a captioner is of its captions, on validation clips with several references each.

dlink calibrate dlink-demo --val dlink-demo/embeddings/val --known dlink-demo/embeddings/pairs

A caption counts as right if it is as near to a reference of its clip, by the encoder's text tower, as 95 % of the
references are to another one. Sounds that are none (silence, noise, tones) teach what the captioner does not know. The
calibration is saved in the captioner's folder; then `dlink caption --json` gives a confidence with each caption.
"""

from pathlib import Path

import torch

from dlink_adapter import Captioner, PairedEmbeddings
from dlink_adapter.soundscapes.strange import strange_sounds
from dlink_adapter.training.processes import process_state

STRANGE, SECONDS, RATE = 900, 5.0, 16_000


def main(model: Path, *, val: Path, known: Path | None = None, candidates: int = 8) -> None:
    """Calibrate the confidence of a captioner.

    Args:
        model: folder of the captioner, which names its encoder.
        val: folder of paired embeddings to calibrate on, with two or more captions for some clips.
        known: folder of paired embeddings with more sounds of the kinds that the captioner knows.
        candidates: captions of each clip from which one is chosen, as they will be later.
    """
    share = calibrate(model, val, known, candidates)
    print(f"{share:.0%} of the captions of {val} are right; the confidence is calibrated on them")


def calibrate(model: Path, val: Path, known: Path | None, candidates: int = 8) -> float:
    """Calibrate a captioner's confidence, save it in its folder, and return the share of right captions."""
    captioner = Captioner.from_pretrained(model)
    if captioner.settings.quantize is None:  # else it is where it runs
        captioner.to(process_state().device)
    folders = [PairedEmbeddings.open(folder) for folder in (val, known) if folder is not None]
    for pairs in folders:
        captioner.bridge.check_encoder(pairs.metadata.get("fingerprint", "an unknown encoder"))
    sounds = torch.cat([pairs.audio.float() for pairs in folders])
    strange = captioner.embed([(sound, RATE) for sound in strange_sounds(STRANGE, SECONDS, RATE)])
    confidence, share = captioner.calibrate(folders[0], sounds, strange, candidates=candidates)
    confidence.save_pretrained(model)
    return share
