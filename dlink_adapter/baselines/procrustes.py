"""Orthogonal Procrustes: the rotation that brings centred audio closest to centred text (Schoenemann, 1966)."""

import torch
from torch import Tensor

from dlink_adapter.baselines.closed_form import LinearBridge


class Procrustes(LinearBridge):
    """W = argmin ||A W - T||^2 over orthogonal W: U V^T of the singular value decomposition of A^T T."""

    name = "procrustes"

    def regress(self, a: Tensor, t: Tensor) -> Tensor:
        left, _, right = torch.linalg.svd(a.T @ t)
        return left @ right
