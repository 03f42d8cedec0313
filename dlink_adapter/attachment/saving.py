"""A host with bridges is saved with them: `save_pretrained` also writes each bridge into a folder of its own.

What a host saves has no place for the config of a bridge, and a peft adapter none for its weights either. So beside the
files of the host, or of the adapter, there are `bridge-<target>/` for each bridge, which `load_bridge` reads too, and a
list of the targets. `attach(model, from_pretrained=folder)` puts them back.

Many hands save a host (Trainer, `push_to_hub`, peft), and peft makes its model after `attach`, where no object can be
prepared. So it is the libraries' `save_pretrained` that is extended, once. Models without a bridge are saved as before.
"""

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from dlink_adapter.bridge.hub import CONFIG_FILE, WEIGHTS_FILE, resolve_folder
from dlink_adapter.bridge.pretrained import Pretrained
from dlink_adapter.files import write_atomically
from dlink_adapter.folders import TARGETS_FILE
from dlink_adapter.registry import load_bridge

SAVERS = {
    "transformers.modeling_utils": "PreTrainedModel",
    "peft.peft_model": "PeftModel",
    "huggingface_hub.hub_mixin": "ModelHubMixin",
}
_extended: set[type] = set()


def extend_saving(bridged: type[nn.Module]) -> None:
    """Make those of `SAVERS` that are imported by now save the `bridge` of every module of the class `bridged` too."""
    for module, name in SAVERS.items():
        saver = getattr(sys.modules.get(module), name, None)
        if saver is not None and saver not in _extended:
            _extended.add(saver)
            saver.save_pretrained = _with_bridges(saver.save_pretrained, bridged)


def load_bridges(name_or_path: str | Path) -> dict[str, Pretrained]:
    """The bridges that were saved with a host or an adapter, in a folder or on the hub, by target.

    Raises FileNotFoundError where there are none, ValueError where one is a module that cannot be saved.
    """
    folder = resolve_folder(name_or_path, (TARGETS_FILE, "bridge-*/*"))
    if not (folder / TARGETS_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {TARGETS_FILE}: nothing was saved there with a bridge attached. "
            "A bridge that was saved alone is attached by attach(model, load_bridge(folder))"
        )
    targets = json.loads((folder / TARGETS_FILE).read_text(encoding="utf-8"))
    return {target: _load(_place(folder, target)) for target in targets}


def bridge_in_use(bridge: nn.Module, adapter: str | None = None) -> nn.Module:
    """Of a bridge that peft has copied for its adapters, the one of `adapter`, by default of the active adapter."""
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(bridge, peft.utils.ModulesToSaveWrapper):
        return bridge
    active = bridge.active_adapter  # a name, or a list of at most one
    name = adapter or (active if isinstance(active, str) else "".join(active))
    return dict(bridge.modules_to_save.items()).get(name, bridge.original_module)


def _with_bridges(save: Callable[..., Any], bridged: type[nn.Module]) -> Callable[..., Any]:
    signature = inspect.signature(save)
    is_peft = "selected_adapters" in signature.parameters

    @wraps(save)
    def save_pretrained(self: Any, save_directory: str | Path, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, save_directory, *args, **kwargs).arguments
        host = self.get_base_model() if is_peft else self
        found = ((target, module) for target, module in host.named_modules() if isinstance(module, bridged))
        bridges: dict[str, Any] = {target: module.bridge for target, module in found}
        if bridges and given.get("push_to_hub"):
            raise ValueError("push_to_hub=True would leave the bridge behind: call model.push_to_hub(repo_id)")
        state = dict({**given, **kwargs}.get("state_dict") or {})  # transformers empties it
        saved = save(self, save_directory, *args, **kwargs)
        if given.get("is_main_process", True):
            adapters = (given.get("selected_adapters") or self.peft_config) if is_peft else [None]
            for adapter in adapters:
                folder = Path(save_directory, "" if adapter in (None, "default") else adapter)  # as peft does
                used = {target: bridge_in_use(bridge, adapter) for target, bridge in bridges.items()}
                _write(folder, {target: _with_weights(bridge, self, state) for target, bridge in used.items()})
        return saved

    return save_pretrained


def _with_weights(bridge: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The bridge as it is in a state of the model: sharded models are saved from one that was gathered before."""
    prefix = next(f"{name}." for name, module in model.named_modules() if module is bridge)
    weights = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    if not weights or not isinstance(bridge, Pretrained):
        return bridge
    with torch.device("meta"):  # nothing is drawn
        twin = type(bridge)(bridge.config)
    twin.metadata = bridge.metadata
    twin.load_state_dict(weights, assign=True)
    return twin


def _write(folder: Path, bridges: dict[str, nn.Module]) -> None:
    for target, bridge in bridges.items():
        place = _place(folder, target)
        if isinstance(bridge, Pretrained):
            bridge.save_pretrained(place)
        else:
            place.mkdir(exist_ok=True)
            save_model(bridge, str(place / WEIGHTS_FILE))
    if bridges:
        write_atomically(folder / TARGETS_FILE, json.dumps(list(bridges), indent=2))
    elif (folder / TARGETS_FILE).is_file():  # what an earlier save left there has been detached
        (folder / TARGETS_FILE).unlink()


def _load(folder: Path) -> Pretrained:
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} holds the weights of a module without `from_pretrained`: attach a module like it, and load its "
            f"{WEIGHTS_FILE} by safetensors.torch.load_model"
        )
    bridge = load_bridge(folder)
    bridge.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)  # in the dtype of the host that it was in
    return bridge


def _place(folder: Path, target: str) -> Path:
    return folder / f"bridge-{target}"
