"""fit(): the one way to fit a bridge of any kind on pairs, calibrate it, measure it and save it."""

import time
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.data.alarms import doubts, faults
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.measure.gap import HEADLINE, before_and_after, measure
from dlink_adapter.training.config import FitConfig
from dlink_adapter.training.descent import Descent
from dlink_adapter.training.processes import process_state

Pairs = PairedEmbeddings | tuple[Any, Any]  # or (audio, text), both (n, dim)
MEASURED_CLIPS = 4096


def fit(
    bridge: Bridge,
    pairs: Pairs,
    *,
    val: Pairs | None = None,
    config: FitConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit a bridge in place, then calibrate and measure it on held-out pairs: the bridge that is kept is that one.

    Under `accelerate launch` or torchrun the processes share each batch; losses are those of one process up to dropout.
    A network is trained from new weights; a depth or a gain that is set, also by an earlier fit, is kept. It warns of
    captions that seem to be shifted against the audio.

    Args:
        bridge: any of `BRIDGES`. It is trained on accelerate's device and comes back to its own.
        pairs: `PairedEmbeddings`, or (audio, text) tensors or arrays, both (n, dim).
        val: pairs to calibrate and measure on, of the same kind; None holds out a share of the clips.
        config: settings of the training.
        out: folder for the bridge, a checkpoint while training and a log in JSONL. Called again with the same arguments
            after a kill, `fit` goes on from the checkpoint and ends, on a CPU, with the same bits.
        progress: shows a bar when on a terminal.

    Returns:
        What was measured: the last losses of a network, the gap before and after on the held-out pairs, the seconds.

    Raises:
        ValueError: pairs of another width, too few pairs, embeddings that are all the same, `val` with the rows of
            `pairs`, a batch that the processes cannot share equally, a checkpoint of a run with other settings or other
            pairs.
    """
    config, started = config or FitConfig(), time.monotonic()
    train, held_out = _parts(bridge, pairs, val, config)
    own_device = next(chain(bridge.parameters(), bridge.buffers())).device
    descent = Descent(config, None if out is None else Path(out), progress)
    bridge.cpu().learn(train, descent)  # formulas run in float64, which not every accelerator has
    bridge.eval().to(process_state().device)
    bridge.calibrate(train, held_out)
    bridge.metadata["gap_before_and_after"] = gap_left(bridge, held_out)
    bridge.metadata["fingerprint"] = train.metadata.get("fingerprint")
    bridge.to(own_device)
    if out is not None and process_state().is_main_process:
        bridge.save_pretrained(out)
        if descent.checkpoint is not None:
            descent.checkpoint.unlink(missing_ok=True)
    gap = bridge.metadata["gap_before_and_after"]
    return {"losses": descent.losses, "gap_before_and_after": gap, "seconds": time.monotonic() - started}


def gap_left(bridge: Bridge, pairs: PairedEmbeddings) -> dict[str, list[float]]:
    """The modality gap on pairs, of which at most `MEASURED_CLIPS` are looked at, before and after a bridge."""
    pairs = pairs.sample(MEASURED_CLIPS)
    audio, text = pairs.audio.float(), pairs.text.float()
    sides = (audio, bridge.map_rows(audio))
    return before_and_after(*(measure(rows, text, pairs.clip, names=HEADLINE) for rows in sides))


def _parts(
    bridge: Bridge, pairs: Pairs, val: Pairs | None, config: FitConfig
) -> tuple[PairedEmbeddings, PairedEmbeddings]:
    """The pairs to fit on, and those to calibrate and measure on."""
    train = _as_pairs(pairs, bridge)
    if found := faults(train):
        raise ValueError("; ".join(found))
    for doubt in doubts(train) if process_state().is_main_process else []:
        warnings.warn(doubt, stacklevel=3)  # where fit was called
    if val is None:
        train, held_out = train.split((1 - config.holdout, config.holdout), seed=config.seed)
    else:
        held_out = _as_pairs(val, bridge)
        encoders = {name for part in (train, held_out) if (name := part.metadata.get("fingerprint"))}
        if len(encoders) > 1:
            raise ValueError(f"pairs and val come from different encoders: {', '.join(sorted(encoders))}")
        if held_out.clips == train.clips and held_out.digest() == train.digest():
            raise ValueError("val has the very rows of pairs: leave it out, and a share of the clips is held out")
    if held_out.clips < 3:
        raise ValueError(
            f"{held_out.clips} held-out clips are too few to calibrate on: give val=, more pairs or holdout"
        )
    return train, held_out


def _as_pairs(pairs: Pairs, bridge: Bridge) -> PairedEmbeddings:
    pairs = pairs if isinstance(pairs, PairedEmbeddings) else PairedEmbeddings.from_tensors(*pairs)
    if pairs.dim != bridge.dim:
        raise ValueError(f"the bridge has dim {bridge.dim}, the pairs have dim {pairs.dim}")
    return pairs
