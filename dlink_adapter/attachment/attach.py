"""Insert a bridge in front of a module of a host model, and take it out again.

`attach` replaces the target (a projector, usually) by a `BridgedModule` that sends the target's input through the
bridge first. Nothing else in the host changes, its checkpoint keys included: `projector.weight` stays
`projector.weight`, and the bridge's own weights are added as `projector.bridge.*`. So

- a checkpoint of the plain host loads into the bridged one, strictly too; the bridge then keeps its weights;
- a checkpoint of the bridged host loads into the bridged one, strictly;
- a checkpoint with the weights of another bridge is an error, also with `strict=False`;
- a checkpoint of the bridged host loads into a plain one with `strict=False`, or with transformers' `from_pretrained`,
  which reports the bridge's keys as unexpected. To save a checkpoint without these keys, `detach` first.

`save_pretrained` of the host, or of the `PeftModel`, also saves the bridges, which `attach(model, from_pretrained=...)`
puts back: see `saving.py`.

Quantise, shard, offload or load the host first and attach afterwards. With peft, the bridge stays outside the adapter:
attach to the model or to the `PeftModel`, before or after. To train it with the adapter, attach first and name it:
`LoraConfig(..., modules_to_save=["bridge"])`; then every adapter has a bridge of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from dlink_adapter.attachment.bridged_module import BridgedModule, check_weights, listed, unwrapped
from dlink_adapter.attachment.hosts import host_of
from dlink_adapter.attachment.saving import bridge_in_use, load_bridges
from dlink_adapter.attachment.switch import switched_off
from dlink_adapter.bridge.base import Bridge

Model = TypeVar("Model", bound=nn.Module)


def attach(
    model: Model,
    link: nn.Module | None = None,
    target: str | None = None,
    *,
    from_pretrained: str | Path | None = None,
) -> Model:
    """Put `link` in front of the module `target` of `model`, in place, and return `model`.

    The bridge is moved to the device of the target and takes its train/eval mode. Several may sit at different targets.

    Args:
        model: the host, also wrapped by `torch.compile`, DDP or peft.
        link: any module `(..., dim) -> (..., dim)`; an integer attribute `dim` lets the width be checked here.
        target: dotted path of the module, or the end of it where that is unique. By default the entry of
            `dlink_adapter.attachment.hosts.HOSTS` for `model.config.model_type`.
        from_pretrained: instead of `link` and `target`, what `save_pretrained` of a bridged host or of its adapter
            wrote: a folder, or a repository's id. Its bridges are attached where they were.

    Raises ValueError on no known host, no such target, an ambiguous one, one with a bridge already, one of another
    width, a bridge that is quantised, an adapter made before that has a bridge in `modules_to_save`, or, without
    `target`, a bridge fitted on pairs for a host that feeds its projector tokens; TypeError on a link that is no
    module; FileNotFoundError where nothing was saved with a bridge.
    """
    if from_pretrained is None:
        _put(model, link, target)
        return model
    if link is not None or target is not None:
        raise ValueError("give a bridge, or from_pretrained=, which says where its bridges go, and not both")
    for saved_at, bridge in load_bridges(from_pretrained).items():
        _put(model, bridge, saved_at)
    return model


def detach(model: nn.Module, target: str | None = None) -> nn.Module:
    """Take a bridge out and return it. The target is again the same module object as before `attach`.

    Raises ValueError where there is no bridge, where there are several and no `target` to choose by, or where it is
    part of peft's adapters.
    """
    modules, bridged = _host_modules(model), _bridged(model)
    if target is None and len(bridged) > 1:
        raise ValueError(f"several bridges are attached, at {listed(bridged)}: give target=")
    path = next(iter(bridged)) if target is None else _find(modules, target, None)
    if not isinstance(wrapper := modules[path], BridgedModule):
        raise ValueError(f"no bridge is attached at {path!r}, only at {listed(bridged)}")
    if bridge_in_use(wrapper.bridge) is not wrapper.bridge:
        way_out = "model = model.unload(), or merge_and_unload(), keeps the active adapter's, which can be detached"
        raise ValueError(f"the bridge at {path!r} is part of the adapters: {way_out}")
    _replace(modules, wrapper, wrapper.host_layer)
    return wrapper.bridge


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the host computes the bits that it would without bridges. Raises ValueError without one.

    It holds for the thread, or asyncio task, that entered it; compiled code is switched for all threads.
    """
    with switched_off(_bridged(model).values()):
        yield


def bridge_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the bridges without those of the host, under their keys in the host (`projector.bridge.*`).

    `model.load_state_dict(weights, strict=False)` puts them back. Raises ValueError without a bridge.
    """
    states = [module.bridge.state_dict(prefix=f"{path}.bridge.") for path, module in _bridged(model).items()]
    return {name: weight for state in states for name, weight in state.items()}


def mark_only_bridge_trainable(model: nn.Module) -> None:
    """Freeze the host and make every parameter of its bridges trainable. Raises ValueError without a bridge."""
    bridged = _bridged(model)
    model.requires_grad_(False)
    for module in bridged.values():
        module.bridge.requires_grad_(True)


def input_dim(module: nn.Module) -> int | None:
    """The size of the last axis of the input of `module`, or None for a module that does not have it as an attribute.

    Convolutions have their channels on another axis than the last, so no bridge fits in front of them.
    """
    match module:
        case BridgedModule():
            return input_dim(module.host_layer)
        case nn.Sequential() if len(module) > 0:
            return input_dim(module[0])
        case nn.Linear():  # bitsandbytes' 4-bit and 8-bit layers too
            return module.in_features
        case nn.LayerNorm() | nn.RMSNorm():
            return module.normalized_shape[-1]
    return None


def _put(model: nn.Module, link: nn.Module | None, target: str | None) -> None:
    if not isinstance(link, nn.Module):
        saved = "load_bridge(folder) loads one, and from_pretrained=folder what was saved with its host"
        raise TypeError(f"the bridge is {link!r}, not a module: {saved}")
    dim = getattr(link, "dim", None)
    check_weights(link)
    modules = _host_modules(model)
    path = _find(modules, target if target is not None else _known_target(model, link, dim), dim)
    layer = modules[path]
    _check(path, layer, dim)
    _check_adapters(modules)
    weight = next(layer.parameters(), None)
    if weight is not None and not weight.is_meta:
        link.to(weight.device)
    _replace(modules, layer, BridgedModule(layer, link.train(layer.training)))


def _replace(modules: dict[str, nn.Module], old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under every name that the host has for it."""
    for path in [path for path, module in modules.items() if module is old]:
        parent, _, leaf = path.rpartition(".")
        setattr(unwrapped(modules[parent]), leaf, new)


def _host_modules(module: nn.Module, path: str = "") -> dict[str, nn.Module]:
    """All modules of the host by their paths without bridges. The module behind a bridge is its `BridgedModule`."""
    found = {path: module}
    for name, child in unwrapped(module).named_children():
        found |= _host_modules(child, f"{path}.{name}" if path else name)
    return found


def _bridged(model: nn.Module) -> dict[str, BridgedModule]:
    found = {path: module for path, module in model.named_modules() if isinstance(module, BridgedModule)}
    if not found:
        raise ValueError(f"no bridge is attached to this {type(model).__name__}: attach(model, link) first")
    return found


def _known_target(model: nn.Module, link: nn.Module, dim: int | None) -> str:
    host = host_of(model, dim)
    if host.kind == "tokens" and isinstance(link, Bridge):
        raise ValueError(
            f"{host.target!r} of {type(model).__name__} reads tokens, one vector a patch or frame, but {link.name} "
            "maps pooled embeddings that are paired with text, to unit norm: attach a TokenBridge, or give "
            f"target={host.target!r} to put it there all the same"
        )
    return host.target


def _find(modules: dict[str, nn.Module], target: str, dim: int | None) -> str:
    if target in modules:
        return target
    matches = [path for path in modules if path.endswith(f".{target}")]
    if len({modules[path] for path in matches}) == 1:  # one module may have several names
        return matches[0]
    if matches:
        raise ValueError(f"target {target!r} is ambiguous: {listed(matches)}")
    message = f"no module {target!r} in {type(modules['']).__name__}"
    if near := get_close_matches(target, modules, n=5, cutoff=0.5):
        message += f"; nearest names: {listed(near)}"
    if dim is not None:
        fits = [path for path, module in modules.items() if input_dim(module) == dim]
        message += f"; modules that take dim {dim}: {listed(fits)}"
    raise ValueError(message)


def _check(path: str, layer: nn.Module, dim: int | None) -> None:
    if path == "":
        raise ValueError("the target is the model itself: give the path of one of its modules")
    if isinstance(layer, BridgedModule):
        raise ValueError(f"a bridge is attached at {path!r} already: detach it first")
    if any(name == "bridge" for name, _ in layer.named_children()):
        raise ValueError(f"{path!r} has a submodule `bridge` of its own, whose checkpoint keys would clash")
    width = input_dim(layer)
    if dim is not None and width is not None and width != dim:
        raise ValueError(f"the bridge has dim {dim}, but {path!r} takes {width}")


def _check_adapters(modules: dict[str, nn.Module]) -> None:
    for module in modules.values():
        for name, config in vars(module).get("peft_config", {}).items():
            if any(entry.endswith("bridge") for entry in vars(config).get("modules_to_save") or ()):
                order = "attach first, and call get_peft_model or PeftModel.from_pretrained afterwards"
                raise ValueError(f"adapter {name!r} has the bridge in modules_to_save, and found none: {order}")
