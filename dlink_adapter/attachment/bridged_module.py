"""A host's module behind a bridge: what `attach` puts in its place.

Its hooks keep the host's checkpoint keys as they are; `attach.py` says what follows from that.
"""

from collections.abc import Iterable, Iterator
from inspect import ismethod
from typing import Any

from torch import Tensor, nn


class BridgedModule(nn.Module):
    """A host's module behind a bridge: `host_layer(bridge(x))`.

    The first floating-point tensor among the arguments, positional ones first, goes through the bridge; everything
    else passes as it came.

    To the host and to peft the wrapper looks like the layer: what it lacks is read from the layer, because hosts read
    things like `projector.weight.dtype`; the layer's own layers are replaced in the layer; and `named_modules` and
    `named_parameters` give the host's names, as the state dict does. The layer's methods are not to be had, because
    they would pass the bridge by.

    Args:
        host_layer: the host's own module, left as it is. (peft takes what has a `base_layer` for one of its own.)
        bridge: any module `(..., dim) -> (..., dim)` that returns the dtype it was given.
    """

    enabled: bool

    def __init__(self, host_layer: nn.Module, bridge: nn.Module) -> None:
        super().__init__()
        self.host_layer = host_layer
        self.bridge = bridge
        self.enabled = True
        self.training = host_layer.training
        self.register_state_dict_post_hook(_drop_host_layer)
        self.register_load_state_dict_pre_hook(_add_host_layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.enabled:
            return self.host_layer(*args, **kwargs)
        for i, value in enumerate(args):
            if _is_embedding(value):
                return self.host_layer(*args[:i], self._cross(value), *args[i + 1 :], **kwargs)
        for name, value in kwargs.items():
            if _is_embedding(value):
                return self.host_layer(*args, **{**kwargs, name: self._cross(value)})
        raise TypeError(f"{type(self.host_layer).__name__} was called without a floating-point tensor to bridge")

    def _cross(self, x: Tensor) -> Tensor:
        check_precision(self.bridge)
        # In a host spread over devices, accelerate's hook on the layer moves the input only after the bridge.
        home = next(self.bridge.parameters(), x).device
        return self.bridge(x.to(home)).to(x.device)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # A private name is how copy, pickle and accelerate ask what *this* object is.
            if name.startswith("_") or name == "host_layer":
                raise
        value = getattr(self.host_layer, name)
        if ismethod(value):
            raise AttributeError(
                f"{name!r} is a method of the {type(self.host_layer).__name__} behind a bridge: detach the bridge, and "
                "attach it again afterwards"
            )
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        layer = self.__dict__.get("_modules", {}).get("host_layer")
        if layer is not None and name in layer._modules:
            setattr(layer, name, value)
        else:
            super().__setattr__(name, value)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As of any module, with the names that the host has without the bridge."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        yield from self.host_layer.named_modules(memo, prefix, remove_duplicate)
        yield from self.bridge.named_modules(memo, f"{prefix}.bridge".removeprefix("."), remove_duplicate)


def unwrapped(module: nn.Module) -> nn.Module:
    """The host's own module: what a bridge was put in front of, or the module itself."""
    return module.host_layer if isinstance(module, BridgedModule) else module


def check_precision(bridge: nn.Module) -> None:
    """Raise ValueError if a weight of the bridge is quantised."""
    for name, parameter in bridge.named_parameters():
        if not parameter.is_floating_point():
            raise ValueError(
                f"{name} of the bridge is quantised, to {parameter.dtype}: a bridge stays in floating point. Quantise "
                "the host first, and attach afterwards"
            )


def listed(names: Iterable[str]) -> str:
    """The names for a message, the first eight of them."""
    shown = list(names)
    return ", ".join(shown[:8]) + (f", ... ({len(shown)} in all)" if len(shown) > 8 else "") or "none"


def _is_embedding(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _drop_host_layer(_module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    inner = f"{prefix}host_layer."
    for key in [key for key in state_dict if key.startswith(inner)]:
        state_dict[prefix + key.removeprefix(inner)] = state_dict.pop(key)


def _add_host_layer(
    module: BridgedModule,
    state_dict: dict[str, Any],
    prefix: str,
    _metadata: dict[str, Any],
    _strict: bool,
    _missing: list[str],
    _unexpected: list[str],
    errors: list[str],
) -> None:
    own = f"{prefix}bridge."
    for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(own)]:
        state_dict[f"{prefix}host_layer.{key.removeprefix(prefix)}"] = state_dict.pop(key)
    has = module.bridge.state_dict(prefix=own, keep_vars=True)
    given = [key for key in state_dict if key.startswith(own)]
    # A host saved without the bridge says nothing about it: the bridge keeps what it has.
    if not given:
        state_dict.update(has)
    if strange := [key for key in given if key not in has]:
        kind = type(module.bridge).__name__
        errors.append(f"saved with another bridge than this {kind}, which has no {listed(strange)}: attach that one")
