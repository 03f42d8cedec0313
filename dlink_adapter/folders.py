"""What the folders that this package writes are known by, and what opens them."""

from pathlib import Path

from dlink_adapter.files import read_json

CAPTIONER_FILE, PAIRS_FILE, BRIDGE_FILE = "captioner.json", "header.json", "config.json"
TARGETS_FILE = "bridge_targets.json"
KINDS = {
    CAPTIONER_FILE: "a captioner, which Captioner.from_pretrained loads",
    TARGETS_FILE: "a host or an adapter with its bridges, which attach(model, from_pretrained=folder) puts back",
    PAIRS_FILE: "a folder of paired embeddings, which PairedEmbeddings.open opens",
    BRIDGE_FILE: "a bridge, which load_bridge loads",
}


def wrong_folder(folder: Path, file: str, kind: str) -> FileNotFoundError:
    """The error on a folder without the `file` that each folder of this `kind` has. It says what the folder is."""
    known = known_by(folder)
    return FileNotFoundError(f"{folder} holds no {file}: it is {f'not {kind}' if known is None else KINDS[known]}")


def known_by(folder: Path) -> str | None:
    """The file that says what a folder is, a key of `KINDS`; None where it is not one of ours."""
    return next((name for name in KINDS if _is_ours(folder / name)), None)


def is_path(name: str | Path) -> bool:
    """Whether this is a path, which no repository of the hub has as its id."""
    return Path(name).is_absolute() or str(name).startswith(".")


def _is_ours(path: Path) -> bool:
    """Other libraries write a `config.json` too."""
    return path.is_file() and (path.name != BRIDGE_FILE or "bridge" in read_json(path))
