from .attachment.attach import attach as attach
from .attachment.attach import bridge_state_dict as bridge_state_dict
from .attachment.attach import detach as detach
from .attachment.attach import disabled as disabled
from .attachment.attach import mark_only_bridge_trainable as mark_only_bridge_trainable
from .captioner.model import Captioner as Captioner
from .data.embeddings import PairedEmbeddings as PairedEmbeddings
from .diffusion_link.config import BridgeConfig as BridgeConfig
from .diffusion_link.link import DiffusionLink as DiffusionLink
from .extract.encoders import load_encoder as load_encoder
from .extract.encoders import register_encoder as register_encoder
from .registry import BRIDGES as BRIDGES
from .registry import load_bridge as load_bridge
from .registry import new_bridge as new_bridge
from .training.choice import choose_bridge as choose_bridge
from .training.config import FitConfig as FitConfig
from .training.fit import fit as fit

__version__: str
from .token_bridge import TokenBridge as TokenBridge
from .token_bridge import TokenBridgeConfig as TokenBridgeConfig
