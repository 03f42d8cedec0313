"""The wrapper that `attach` puts in the place of a host's module.

Its hooks keep the checkpoint keys of the host as they are: see `attach.py` for which checkpoints load where.
"""

from collections.abc import Iterable, Iterator
from inspect import ismethod
from typing import Any, NoReturn

from torch import Tensor, nn

from dlink_adapter.attachment.saving import extend_saving
from dlink_adapter.attachment.switch import Switchable


class BridgedModule(Switchable):
    """A host's module behind a bridge: `host_layer(bridge(x))`.

    The first floating-point tensor among the arguments, positional ones first, goes through the bridge; the others are
    passed on. Hosts and peft can use the wrapper as if it were the layer: attributes that it does not have are read
    from the layer (`projector.weight.dtype`), submodules of the layer are replaced in the layer, and `named_modules`,
    `named_parameters` and the state dict have the names of the host. A method of the layer would bypass the bridge, so
    access to one is an error.

    `host_layer` is the host's module, unchanged; peft knows its own by the name `base_layer`. `bridge` is any module
    `(..., dim) -> (..., dim)` that returns the dtype it was given.
    """

    def __init__(self, host_layer: nn.Module, bridge: nn.Module) -> None:
        super().__init__()
        self.host_layer, self.bridge = host_layer, bridge
        self.training = host_layer.training
        self.register_state_dict_post_hook(_drop_host_layer)
        self.register_load_state_dict_pre_hook(_add_host_layer)
        extend_saving(BridgedModule)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_off:
            return self.host_layer(*args, **kwargs)
        for i, value in enumerate(args):
            if _is_embedding(value):
                return self.host_layer(*args[:i], self._cross(value), *args[i + 1 :], **kwargs)
        for name, value in kwargs.items():
            if _is_embedding(value):
                return self.host_layer(*args, **{**kwargs, name: self._cross(value)})
        raise TypeError(f"{type(self.host_layer).__name__} was called without a floating-point tensor to bridge")

    def _cross(self, x: Tensor) -> Tensor:
        check_weights(self.bridge)
        # In a host spread over devices, accelerate's hook on the layer moves the input only after the bridge.
        home = next(self.bridge.parameters(), x).device
        if home.type == "meta" and x.device.type != "meta":
            advice = "offload the host first, and attach afterwards"
            raise ValueError(f"the weights of the bridge were offloaded together with the host: {advice}")
        return self.bridge(x.to(home)).to(x.device)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # copy, pickle and accelerate look up private names, and mean this object and not the layer.
            if name.startswith("_") or name == "host_layer":
                raise
        value = getattr(self.host_layer, name)
        if ismethod(value):
            where = f"is a method of the {type(self.host_layer).__name__} behind a bridge"
            raise AttributeError(f"{name!r} {where}: detach the bridge, and attach it again afterwards")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        layer = self.__dict__.get("_modules", {}).get("host_layer")
        if layer is not None and name in layer._modules | layer._parameters | layer._buffers:
            setattr(layer, name, value)
        else:
            super().__setattr__(name, value)

    def __len__(self) -> int:
        return len(self.host_layer)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return True  # as of a module without a length

    def __getitem__(self, key: int | slice | str) -> Any:
        return self.host_layer[key]  # type: ignore[index]

    def __iter__(self) -> NoReturn:
        layers = f"the layers of a {type(self.host_layer).__name__} behind a bridge"
        raise TypeError(f"{layers} cannot be iterated over, which would bypass it: attach to the first of them")

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As `nn.Module.named_modules`, with the names that the host has without the bridge."""
        extend_saving(BridgedModule)  # peft looks here before it wraps a host, and may be imported only now
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        yield from self.host_layer.named_modules(memo, prefix, remove_duplicate)
        yield from self.bridge.named_modules(memo, f"{prefix}.bridge".removeprefix("."), remove_duplicate)


def unwrapped(module: nn.Module) -> nn.Module:
    """The layer behind a bridge, or the module itself where it is not behind a bridge."""
    return module.host_layer if isinstance(module, BridgedModule) else module


def check_weights(bridge: nn.Module) -> None:
    """Raise ValueError if a weight of the bridge is quantised, or peft has put an adapter into the bridge."""
    for name, parameter in bridge.named_parameters():
        if not parameter.is_floating_point():
            advice = "a bridge stays in floating point. Quantise the host first, and attach afterwards"
            raise ValueError(f"{name} of the bridge is quantised, to {parameter.dtype}: {advice}")
        if "base_layer" in name.split("."):  # peft's name for a layer that it has wrapped
            advice = r"""exclude_modules=r".*\bbridge\b.*" leaves it out, modules_to_save=["bridge"] trains it whole"""
            raise ValueError(f"an adapter was put into the bridge, as its weight {name} shows: {advice}")


def listed(names: Iterable[str]) -> str:
    """The first eight names, for a message."""
    shown = list(names)
    return ", ".join(shown[:8]) + (f", ... ({len(shown)} in all)" if len(shown) > 8 else "") or "none"


def _is_embedding(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _drop_host_layer(_module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    inner = f"{prefix}host_layer."
    for key in [key for key in state_dict if key.startswith(inner)]:
        state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)


def _add_host_layer(module: BridgedModule, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    *_, errors = others
    own = f"{prefix}bridge."
    for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(own)]:
        state_dict[f"{prefix}host_layer.{key.removeprefix(prefix)}"] = state_dict.pop(key)
    has = module.bridge.state_dict(prefix=own, keep_vars=True)
    given = [key for key in state_dict if key.startswith(own)]
    # A checkpoint of the plain host has no weights for the bridge, which keeps its own.
    if not given:
        state_dict.update(has)
    if strange := [key for key in given if key not in has]:
        kind = type(module.bridge).__name__
        errors.append(f"saved with another bridge than this {kind}, which has no {listed(strange)}: attach that one")
