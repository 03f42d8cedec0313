"""Saved bridges as folders and as repositories of the Hugging Face hub."""

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlink_adapter import __version__
from dlink_adapter.files import read_json
from dlink_adapter.folders import BRIDGE_FILE, KINDS, TARGETS_FILE, is_path, wrong_folder

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = BRIDGE_FILE, "model.safetensors", "README.md"


def resolve_folder(
    name_or_path: str | Path, files: Sequence[str] = (CONFIG_FILE, WEIGHTS_FILE), *, subfolder: str = "", **hub: Any
) -> Path:
    """The local folder of a saved model: itself, or the hub's snapshot of these files of that repository.

    Args:
        name_or_path: a folder or a repository's id.
        files: patterns of the files that are needed.
        subfolder: where they lie in it.
        hub: options of `huggingface_hub.snapshot_download`: revision, token, cache_dir, local_files_only,
            force_download.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be read.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path, subfolder)
    if is_path(name_or_path):
        raise FileNotFoundError(f"there is no folder {name_or_path}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"{subfolder}/{file}".lstrip("/") for file in files]
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=patterns, **hub), subfolder)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"{name_or_path} is neither a folder nor a repository that can be read: {reason}"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` in a bridge's folder says: the kind of bridge, its config, its metadata, our version.

    Raises FileNotFoundError where there is none, ValueError where it is not that of a bridge.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise wrong_folder(folder, CONFIG_FILE, "a saved bridge")
    values = read_json(path)
    if "bridge" not in values or not isinstance(values.get("config"), dict):
        is_host = (folder / TARGETS_FILE).is_file()
        what = f"but of {KINDS[TARGETS_FILE]}" if is_host else "which has the keys bridge and config"
        raise ValueError(f"{path} is not the config of a bridge, {what}")
    if not isinstance(values.get("metadata", {}), dict):
        raise ValueError(f"{path} is damaged: metadata is {values['metadata']!r:.40}")
    return values


@contextmanager
def settings_in(path: Path, version: str | None) -> Iterator[None]:
    """Errors about the settings in a file name the file, and the version that saved it if that is newer than this one.

    Raises ValueError in place of what the block raises on a value that is wrong, or too large for a tensor.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        newer = version is not None and _numbers(version) > _numbers(__version__)
        advice = f" (saved by a newer version of dlink-adapter, {version}: upgrade)" if newer else ""
        raise ValueError(f"{path}: {error}{advice}") from error


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


class Shareable(ABC):
    """A model that can be pushed to the hub."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything into a folder."""

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **commit: Any) -> str:
        """Upload what `save_pretrained` writes as a model repository and return the commit's address.

        `commit` are options of `huggingface_hub.HfApi.upload_folder`: commit_message, create_pr, revision.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, **commit))
