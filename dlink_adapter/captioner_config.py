"""The former place of `dlink_adapter.captioner.config`."""

from dlink_adapter.captioner.config import CaptionerConfig as CaptionerConfig
