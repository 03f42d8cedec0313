"""The former place of `dlink_adapter.captioner.training`."""

from dlink_adapter.captioner.training import CaptionRows as CaptionRows
from dlink_adapter.captioner.training import train_captioner as train_captioner
