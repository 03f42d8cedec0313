"""Fit a bridge on paired embeddings: the diffusion bridge, or any of the methods beside it.

dlink train-bridge --pairs pairs --out bridge
dlink train-bridge --pairs pairs --val val --out ridge --method ridge
dlink train-bridge --pairs pairs --out best --method auto
accelerate launch --num_processes 2 --cpu -m dlink_adapter train-bridge --pairs pairs --out bridge

The output folder holds the bridge, with the encoder's fingerprint and the gap before and after in its config.json and
its card, and log.jsonl, the losses. A run that was stopped goes on when it is started again; a finished one is not
fitted again, and other settings need another folder. Processes share each batch: the losses are those of one process,
however many there are.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree

from dlink_adapter import BridgeConfig, FitConfig, PairedEmbeddings
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.config import changed
from dlink_adapter.registry import new_bridge
from dlink_adapter.stages import Stages
from dlink_adapter.training.choice import choose_bridge
from dlink_adapter.training.processes import process_state


@dataclass(frozen=True)
class BridgeSettings(BridgeConfig):
    """The settings of the bridge, `BridgeConfig`; of other methods those that they know. dim is that of the pairs."""

    dim: int = 0

    def __post_init__(self) -> None:
        """They are checked when the width is known."""


def main(
    *,
    pairs: Path,
    out: Path,
    val: Path | None = None,
    method: str = "diffusion_link",
    base: str | None = None,
    bridge: BridgeSettings = BridgeSettings(),
    fit: FitConfig = FitConfig(),
) -> None:
    """Fit and save a bridge.

    Args:
        pairs: folder of PairedEmbeddings to fit on.
        out: folder for the bridge.
        val: folder of PairedEmbeddings to calibrate on and to measure the gap on; without it, a share of the clips of
            `pairs` is held out for that.
        method: name of a bridge; or auto, which fits several and keeps the one that does best on held-out pairs.
        base: name of the bridge that moment_matched is put on; by default diffusion_link.
        bridge: settings of the method.
        fit: settings of the training; batch_size is over all processes.
    """
    data, held_out = PairedEmbeddings.open(pairs), None if val is None else PairedEmbeddings.open(val)
    own = changed(bridge, BridgeSettings()) | ({} if base is None else {"base": base})
    if method == "auto":
        if own:
            raise ValueError(f"auto fits each method with its default settings: leave out {', '.join(own)}")
        work = partial(_choose, data, held_out, fit, out)
    else:
        work = partial(_fit, new_bridge(method, own.get("dim", data.dim), own), data, held_out, fit, out)
    sources = {name: part.digest() for name, part in (("pairs", data), ("val", held_out)) if part is not None}
    settings = {"method": method, "bridge": own, "fit": asdict(fit), **sources}
    main_process = process_state().is_main_process
    found = Stages(out, 1, settings, leads=main_process)("bridge", f"fit {method}", work)
    if main_process:
        print(f"{found}\n{out}")


def _fit(bridge: Bridge, pairs: PairedEmbeddings, val: PairedEmbeddings | None, config: FitConfig, out: Path) -> str:
    found = bridge.fit(pairs, val=val, config=config, out=out)
    process_state().wait_for_everyone()  # before any of them notes that this is done
    lines = [f"{bridge.name} of dim {bridge.dim}, fitted on {pairs.clips} clips with {len(pairs)} captions"]
    for name, (before, after) in found["gap_before_and_after"].items():
        lines.append(f"{name:<18} {before:>8.4f} before {after:>8.4f} after")
    return "\n".join(lines)


def _choose(pairs: PairedEmbeddings, val: PairedEmbeddings | None, config: FitConfig, out: Path) -> str:
    choice = choose_bridge(pairs, val=val, config=config, out=out / "candidates")
    if process_state().is_main_process:
        choice.bridge.save_pretrained(out)
        rmtree(out / "candidates")
    process_state().wait_for_everyone()
    return choice.table()
