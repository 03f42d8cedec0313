"""What `dlink doctor` says of a folder: what it is, of which encoder, and what is wrong with it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dlink_adapter import PairedEmbeddings, load_bridge
from dlink_adapter.captioner.config import BRIDGE_FOLDER, read_captioner_config
from dlink_adapter.captioner.model import ADAPTER_FOLDER
from dlink_adapter.data.alarms import doubts, faults
from dlink_adapter.folders import BRIDGE_FILE, CAPTIONER_FILE, KINDS, PAIRS_FILE, known_by

Seen = tuple[str | None, list[str]]  # the encoder's fingerprint, problems


def look(folder: Path) -> dict[str, Any]:
    """What a folder `is`, the `encoder` that its embeddings are of, if that is known, and its `problems`."""
    kind, encoder = None, None
    try:
        kind = known_by(folder)
        encoder, problems = _unknown(folder) if kind is None else CHECKS[kind](folder)
    except (ValueError, OSError) as error:
        problems = [str(error)]
    return {"is": "nothing known" if kind is None else KINDS[kind], "encoder": encoder, "problems": problems}


def strangers(looked: dict[str, dict[str, Any]]) -> list[str]:
    """A problem where folders are of more than one encoder."""
    encoders: dict[str, list[str]] = {}
    for folder, of in looked.items():
        if of["encoder"] is not None:
            encoders.setdefault(of["encoder"], []).append(folder)
    groups = [f"{', '.join(folders)} of {encoder}" for encoder, folders in encoders.items()]
    return [f"the folders are of different encoders: {'; '.join(groups)}"] if len(groups) > 1 else []


def _unknown(folder: Path) -> Seen:
    if not folder.is_dir():
        raise FileNotFoundError("there is no such folder")
    return None, [f"it holds none of {', '.join(KINDS)} of this package"]


def _pairs(folder: Path) -> Seen:
    pairs = PairedEmbeddings.open(folder)
    return pairs.metadata.get("fingerprint"), [*faults(pairs), *doubts(pairs)]


def _bridge(folder: Path) -> Seen:
    return load_bridge(folder).metadata.get("fingerprint"), [*_damage(folder.glob("*.safetensors"))]


def _captioner(folder: Path) -> Seen:
    read_captioner_config(folder)
    encoder, problems = _bridge(folder / BRIDGE_FOLDER)
    weights = [*folder.glob("*.safetensors"), *(folder / ADAPTER_FOLDER).glob("*.safetensors")]
    return encoder, [*problems, *_damage(weights)]


def _damage(files: Iterable[Path]) -> Iterator[str]:
    """A problem for each file that cannot be read, or has weights that are not finite."""
    for file in sorted(files):
        try:
            with safe_open(file, framework="pt") as weights:
                bad = [name for name in weights.keys() if not weights.get_tensor(name).isfinite().all()]  # noqa: SIM118
        except SafetensorError as error:
            yield f"{file} is damaged: {error}"
        else:
            if bad:
                yield f"{file} has NaN or Inf in {', '.join(bad)}"


CHECKS = {CAPTIONER_FILE: _captioner, PAIRS_FILE: _pairs, BRIDGE_FILE: _bridge}
