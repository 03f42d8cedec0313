"""How likely a caption is right: a number in [0, 1], calibrated on validation clips with references.

It is the product of two logistic regressions. One says whether a caption of a known sound is right, by the cosine of
the caption and the bridged audio (which says little across an open modality gap, and most across a closed one) and by
the caption's log-likelihood. The other says whether the sound is a known one, by its embedding: it has learned to tell
those of known sounds from those of silence, noise and tones.
"""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import normalize

from dlink_adapter.bridge.weights import load_weights
from dlink_adapter.captioner.candidates import Candidates
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.extras import import_extra
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.right import right_captions

CONFIDENCE_FILE = "confidence.safetensors"
INVERSE_PENALTY = 1000.0  # of both regressions


class Confidence(nn.Module):
    """Confidences of captions. `fit` it, or load its state dict.

    Args:
        dim: width of an embedding.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.right, self.known = nn.Linear(2, 1), nn.Linear(dim, 1)
        self.requires_grad_(False)

    def forward(self, audio: Tensor, candidates: Candidates) -> Tensor:
        """Embeddings (n, dim) of audio, and k candidates for each -> (n, k)."""
        known = self.known(normalize(audio.float(), dim=-1).to(self.known.weight)).sigmoid()
        return self.right(_features(candidates).to(self.right.weight)).squeeze(-1).sigmoid() * known

    def fit(self, pairs: PairedEmbeddings, candidates: Candidates, known: Tensor, strange: Tensor) -> float:
        """Calibrate on validation pairs, some of whose clips have several references.

        Args:
            pairs: the clips.
            candidates: captions of them; the one of each clip that is nearest to the bridged audio is judged.
            known: (n, dim) embeddings of sounds of the kinds that the captioner knows.
            strange: (m, dim) embeddings of sounds that are none.

        Returns:
            The share of the captions that are right.
        """
        best = torch.arange(pairs.clips), candidates.match.argmax(-1)
        right = right_captions(candidates.said[best], pairs.text, pairs.clip)
        _regress(self.right, _features(candidates)[best], right)
        audio = normalize(torch.cat([known, strange]).float(), dim=-1)
        _regress(self.known, audio, torch.arange(len(audio)) < len(known))
        return right.float().mean().item()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `CONFIDENCE_FILE` into the folder of a captioner."""
        write_atomically(Path(folder, CONFIDENCE_FILE), save(self.state_dict()))

    @classmethod
    def from_pretrained(cls, folder: str | Path, dim: int) -> "Confidence | None":
        """That of a captioner's folder, if it has one. Raises ValueError, which names the file, on damaged weights."""
        file = Path(folder, CONFIDENCE_FILE)
        if not file.is_file():
            return None
        confidence = cls(dim)
        load_weights(confidence, file)
        return confidence


def _features(candidates: Candidates) -> Tensor:
    return torch.stack([candidates.match, candidates.log_likelihood], dim=-1)


def _regress(layer: nn.Linear, x: Tensor, label: Tensor) -> None:
    """Logistic regression of labels (n,) on x (n, features), whose features are brought to unit variance for it.

    A mean row of either label is added, so that there is one of each even where all captions are right, or none.
    """
    spread, mean = torch.std_mean(x.double(), dim=0)
    rows, labels = torch.cat([(x - mean) / spread, x.new_zeros(2, x.shape[1])]), [*label.tolist(), True, False]
    regression = import_extra("sklearn.linear_model", "metrics").LogisticRegression(C=INVERSE_PENALTY, max_iter=5000)
    regression.fit(rows, labels)
    weight = torch.from_numpy(regression.coef_) / spread
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.from_numpy(regression.intercept_) - weight @ mean)
