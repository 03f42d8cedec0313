"""The former place of `dlink_adapter.captioner.training`."""

from dlink_adapter.captioner.training import CaptionRows, train_captioner

__all__ = ["CaptionRows", "train_captioner"]
