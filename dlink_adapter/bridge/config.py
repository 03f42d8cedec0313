"""Rules that the configs of all bridges share. A config is a frozen dataclass with at least `dim`."""

from dataclasses import asdict, dataclass, fields
from typing import Any

MOST = 1 << 20  # of anything that is counted, far above what is of use: a config is checked before it takes memory


def require(valid: bool, config: Any, name: str, rule: str) -> None:
    """Raise a ValueError that names the setting, its value and the rule, unless it is valid."""
    if not valid:
        raise ValueError(f"{name} is {getattr(config, name)!r}: it must be {rule}")


def require_counts(config: Any, *names: str) -> None:
    """Require that the settings of these names are integers from 1 to `MOST`."""
    for name in names:
        value = getattr(config, name)
        require(isinstance(value, int) and 1 <= value <= MOST, config, name, f"an int of at least 1 and at most {MOST}")


def from_known(cls: Any, values: dict[str, Any]) -> Any:
    """The dataclass `cls` with these values. Raises ValueError on a key that it does not know."""
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown {cls.__name__} key {', '.join(unknown)}; known: {', '.join(known)}")
    return cls(**values)


def changed(config: Any, default: Any) -> dict[str, Any]:
    """The settings of a dataclass that differ from those of `default`: what a user has set."""
    return {name: value for name, value in asdict(config).items() if value != getattr(default, name)}


@dataclass(frozen=True)
class DimConfig:
    """The config of a bridge without settings.

    Args:
        dim: width of the encoder's embeddings.
    """

    dim: int

    def __post_init__(self) -> None:
        require_counts(self, "dim")
