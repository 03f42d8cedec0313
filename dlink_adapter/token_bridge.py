"""TokenBridge: for hosts whose projector reads tokens. Ours, not the paper's; trained inside the host by its own loss.

LLaVA, Qwen2-Audio and most hosts feed their projector one vector a patch or frame, in the encoder's own space and with
norms of its own. No token has a text of its own, so there is no cloud of text to move it to, no pairs to fit, and no
modality gap to close. What is left of the paper is its residual MLP block, without noise. Like LoRA it starts as the
identity and learns whatever lowers the host's loss, which need not make tokens text-like. A target on the side of text
could be the host's own token embeddings of a caption, with an alignment of the two sequences; none is trained here.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlink_adapter.bridge.card import model_card
from dlink_adapter.bridge.config import DimConfig, require
from dlink_adapter.bridge.pretrained import Pretrained
from dlink_adapter.diffusion_link.network import residual_branch

CARD = """# {name}: tokens of a frozen encoder, as one host wants them

```python
from dlink_adapter import TokenBridge, attach

attach(host, TokenBridge.from_pretrained("this folder or repository"))  # the host that it was trained in
```

{sections}
"""
TINY = torch.finfo(torch.float32).tiny  # against division by zero: padding may be zero


@dataclass(frozen=True)
class TokenBridgeConfig(DimConfig):
    """Settings of `TokenBridge`.

    Args:
        dim: width of the encoder's tokens.
        mlp_ratio: hidden width, as a multiple of `dim`.
    """

    mlp_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mlp_ratio * self.dim >= 1, self, "mlp_ratio", "large enough for one hidden unit")


class TokenBridge(Pretrained):
    """Tokens (..., dim) -> tokens (..., dim) of the same norms, dtype and device; the same bits while untrained.

    h = x / rms(x) becomes h + MLP(h), scaled back to the norm of x. `mark_only_bridge_trainable(model)` and the host's
    own training loop train it; there is no `fit`. Raises ValueError on tokens of another width.
    """

    name: ClassVar = "token_bridge"
    config_class: ClassVar = TokenBridgeConfig

    def __init__(self, config: TokenBridgeConfig):
        super().__init__(config)
        self.mlp = residual_branch(config.dim, round(config.mlp_ratio * config.dim), dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point() or x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"expected floating-point tokens (..., {self.dim}), got {tuple(x.shape)} {x.dtype}")
        device = "cpu" if x.device.type == "meta" else x.device.type  # autocast does not know the meta device
        with torch.autocast(device, enabled=False):
            return x + self._change(x.float()).to(x.dtype)

    def _change(self, x: Tensor) -> Tensor:
        """What turns x, in float32: exactly zero where the MLP gives zero."""
        rms = x.square().mean(-1, keepdim=True).clamp_min(TINY).sqrt()
        h = x / rms
        d = self.mlp(h.to(next(self.mlp.parameters()).dtype)).float()
        # 1 / ||h + d||, with the part of h taken as the 1 that it is: the quotient of two norms would be 1 only nearly.
        scale = (1 + (d * (2 * h + d)).mean(-1, keepdim=True)).rsqrt()
        return rms * (scale * d + (scale - 1) * h)

    def card(self) -> str:
        return model_card(self.name, self.settings(), self.metadata, body=CARD)
