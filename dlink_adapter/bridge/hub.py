"""Saved bridges as folders and as repositories of the Hugging Face hub."""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"{subfolder}/{file}".lstrip("/") for file in files]
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=patterns, **hub), subfolder)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{name_or_path} is neither a folder nor a repository that can be read: {error}"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` in a bridge's folder says: the kind of bridge, its config, its metadata.

    Raises FileNotFoundError where there is none, ValueError where it is not that of a bridge.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: it is not a saved bridge")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = {"bridge", "config"} <= set(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not complete:
        raise ValueError(f"{path} is not the config of a bridge: it needs the keys bridge and config")
    return values


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
