"""The scorers behind `caption_metrics`: pycocoevalcap's, and FENSE. Each says why where it cannot run.

A scorer takes captions of words joined by spaces and gives, for each metric that it computes, the corpus score, one a
clip, and the sums over clips that the corpus score comes from, for `significance`. Nothing is downloaded.
"""

import atexit
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from dlink_adapter.measure.caption_tokenizers import pycocoevalcap
from dlink_adapter.measure.significance import Pooled

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
BLEU_TINY, BLEU_SMALL = 1e-15, 1e-9  # pycocoevalcap's, against division by zero
METEOR_ALPHA, METEOR_BETA, METEOR_GAMMA, METEOR_DELTA = 0.85, 0.2, 0.6, 0.75  # of METEOR 1.5 for English
METEOR_WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of exact, stem, synonym and paraphrase matches
SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
FENSE_CHECKER = "echecker_clotho_audiocaps_base.ckpt"
FENSE_SENTENCES = "sentence-transformers/paraphrase-TinyBERT-L6-v2"


class Captions(NamedTuple):
    """By clip, in the order and form in which pycocoevalcap's scorers take them."""

    references: dict[int, list[str]]
    predictions: dict[int, list[str]]


class Result(NamedTuple):
    """One metric: the corpus score, that of each clip, and the corpus score of any resample of the clips."""

    corpus: float
    clips: list[float]
    pooled: Pooled


class NotRun(Exception):
    """A metric that cannot run here; the message says why."""


def _bleu(captions: Captions) -> list[Result]:
    """BLEU-1 to BLEU-4 with the closest reference length (Papineni et al., ACL 2002)."""
    scorer = pycocoevalcap("bleu.bleu_scorer").BleuScorer(n=len(BLEU))
    for clip, references in captions.references.items():
        scorer += (captions.predictions[clip][0], references)
    whole, each = scorer.compute_score(option="closest")
    counts = torch.tensor([_bleu_counts(**clip) for clip in scorer.ctest], dtype=torch.float64)
    return [
        Result(float(whole[n]), each[n], Pooled(counts, partial(_bleu_of_sums, order=n + 1))) for n in range(len(BLEU))
    ]


def _bleu_counts(testlen: int, reflen: list[int], guess: list[int], correct: list[int]) -> list[int]:
    closest = min((abs(length - testlen), length) for length in reflen)[1]
    return [testlen, closest, *guess, *correct]


def _bleu_of_sums(sums: Tensor, order: int) -> Tensor:
    """Sums (..., 10) of `_bleu_counts` -> BLEU (...,)."""
    length, closest, guess, correct = sums.split([1, 1, len(BLEU), len(BLEU)], dim=-1)
    precisions = (correct + BLEU_TINY) / (guess + BLEU_SMALL)
    brevity = (1 - (closest + BLEU_SMALL) / (length + BLEU_TINY)).exp().clamp(max=1)
    return precisions[..., :order].prod(-1) ** (1 / order) * brevity[..., 0]


def _rouge_l(captions: Captions) -> list[Result]:
    """ROUGE-L, F-measure of the longest common subsequence (Lin, 2004)."""
    return [mean_of(pycocoevalcap("rouge.rouge").Rouge().compute_score(*captions)[1])]


def _cider_d(captions: Captions) -> list[Result]:
    """CIDEr-D: CIDEr with clipped counts and a length penalty (Vedantam et al., CVPR 2015), which COCO calls CIDEr."""
    if len(captions.references) < 2:
        raise NotRun("its idf weights need at least two clips")
    return [mean_of(pycocoevalcap("cider.cider").Cider().compute_score(*captions)[1])]


def _meteor(captions: Captions) -> list[Result]:
    """METEOR 1.5 (Denkowski and Lavie, 2014): a Java program, which talks through pipes, counts the matches."""
    _need_java()
    scorer = _meteor_program()
    groups = captions.references.items()
    try:
        lines = [scorer._stat(captions.predictions[clip][0], references) for clip, references in groups]
        counts = torch.tensor([[float(count) for count in line.split(" ")] for line in lines], dtype=torch.float64)
    except (OSError, ValueError) as error:  # it died: a broken pipe, or an empty line
        scorer.meteor_p.kill()
        _meteor_program.cache_clear()
        raise NotRun(f"METEOR's Java program failed: {scorer.meteor_p.stderr.read().decode().strip()}") from error
    word_for_word = (counts[:, 20] == 1) & (counts[:, 21:] == counts[:, :2]).all(-1)
    counts[word_for_word, 20] = 0  # the program counts no chunk of a caption that is a reference, alone or in a corpus
    each, corpus = _meteor_of_sums(counts), _meteor_of_sums(counts.sum(0))
    return [Result(corpus.item(), each.tolist(), Pooled(counts, _meteor_of_sums))]


def _meteor_of_sums(sums: Tensor) -> Tensor:
    """Sums (..., 23) of the program's counts -> METEOR (...,)."""
    lengths, functions = sums[..., :2], sums[..., 2:4]  # words, function words; of the prediction, of the reference
    matches = sums[..., 4:20].unflatten(-1, (4, 2, 2))  # stage; content, function; prediction, reference
    chunks, matched = sums[..., 20], sums[..., 21:]
    kinds = sums.new_tensor([METEOR_DELTA, 1 - METEOR_DELTA])  # of content and of function words
    weighted = torch.einsum("s,k,...skp->...p", sums.new_tensor(METEOR_WEIGHTS), kinds, matches)
    possible = kinds[0] * (lengths - functions) + kinds[1] * functions
    precision, recall = (weighted / possible).nan_to_num(0).unbind(-1)  # an empty caption has neither
    f_mean = 1 / ((1 - METEOR_ALPHA) / precision + METEOR_ALPHA / recall)
    fragments = (chunks / matched.mean(-1)).nan_to_num(0)
    return f_mean * (1 - METEOR_GAMMA * fragments**METEOR_BETA)


@cache
def _meteor_program() -> Any:
    """The running program: it takes seconds to start, so one serves every call until the interpreter exits."""
    scorer = pycocoevalcap("meteor.meteor").Meteor()
    atexit.register(_end, scorer.meteor_p)
    return scorer


def _end(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()


def _spice(captions: Captions) -> list[Result]:
    """SPICE (Anderson et al., ECCV 2016): F-score of scene-graph tuples."""
    _need_java()
    module = pycocoevalcap("spice.spice")
    folder = Path(module.__file__).with_name("lib")
    missing = [jar for jar in SPICE_JARS if not (folder / jar).exists()]
    if missing:
        raise NotRun(f"needs CoreNLP 3.6.0, which is not on PyPI: put {' and '.join(missing)} into {folder}")
    try:
        _, each = module.Spice().compute_score(*captions)
    except subprocess.CalledProcessError as error:
        raise NotRun(f"its Java program failed with status {error.returncode}; it needs Java 8 or 11") from error
    return [mean_of([clip["All"]["f"] for clip in each])]


def _fense(captions: Captions) -> list[Result]:
    """FENSE (Zhou et al., ICASSP 2022): sentence similarity, cut where a detector finds a fluency error."""
    if find_spec("fense") is None or find_spec("sentence_transformers") is None:
        raise NotRun("needs sentence-transformers and the fense package, github.com/blmoistawinde/fense")
    checker = Path(os.environ.get("FENSE_DATA", "~/.fense_data"), FENSE_CHECKER).expanduser()
    if not checker.exists() or not isinstance(try_to_load_from_cache(FENSE_SENTENCES, "config.json"), str):
        raise NotRun(f"needs {checker} and {FENSE_SENTENCES} in the hub's cache")
    return [mean_of(import_module("fense.fense").Fense().compute_score(*captions)[1])]


# What one scorer computes together, and the scorer.
SCORERS: dict[tuple[str, ...], Callable[[Captions], list[Result]]] = {
    BLEU: _bleu,
    ("rouge_l",): _rouge_l,
    ("meteor",): _meteor,
    ("cider_d",): _cider_d,
    ("spice",): _spice,
    ("fense",): _fense,
}


def mean_of(values: Any) -> Result:
    """The result of a metric whose corpus score is the mean of the clips'."""
    each = [float(value) for value in values]
    return Result(sum(each) / len(each), each, Pooled.mean(each))


def _need_java() -> None:
    if shutil.which("java") is None:
        raise NotRun("needs Java: apt-get install default-jre-headless")
