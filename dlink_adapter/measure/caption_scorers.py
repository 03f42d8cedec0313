"""The scorers of pycocoevalcap, and FENSE, as functions. A scorer that cannot run raises `NotRun` with the reason.

A scorer takes tokenized captions, words joined by spaces, and returns a `Pooled` for each metric that it computes: the
score of the corpus, of each clip, and of any resample of the clips. Nothing is downloaded.
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

import numpy as np
from huggingface_hub import try_to_load_from_cache

from dlink_adapter.extras import import_extra
from dlink_adapter.measure.significance import Floats, Pooled

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
BLEU_TINY, BLEU_SMALL = 1e-15, 1e-9  # pycocoevalcap's, against division by zero
FENSE = ("fense", "fer")
METEOR_ALPHA, METEOR_BETA, METEOR_GAMMA, METEOR_DELTA = 0.85, 0.2, 0.6, 0.75  # of METEOR 1.5 for English
METEOR_TINY = 1e-12  # against division by zero
METEOR_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of exact, stem, synonym and paraphrase matches
SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
FENSE_CHECKER = "echecker_clotho_audiocaps_base.ckpt"
FENSE_SENTENCES = "sentence-transformers/paraphrase-TinyBERT-L6-v2"


class Captions(NamedTuple):
    """Captions by clip, in the order and the form in which pycocoevalcap's scorers take them."""

    references: dict[int, list[str]]
    predictions: dict[int, list[str]]


class NotRun(Exception):
    """A metric that cannot run here; the message says why."""


def _bleu(captions: Captions) -> list[Pooled]:
    """BLEU-1 to BLEU-4 with the closest reference length (Papineni et al., ACL 2002)."""
    scorer = import_extra("pycocoevalcap.bleu.bleu_scorer", "metrics").BleuScorer(n=len(BLEU))
    for clip, references in captions.references.items():
        scorer += (captions.predictions[clip][0], references)
    counts = np.array([_bleu_counts(**clip) for clip in scorer.ctest], dtype=np.float64)
    return [Pooled(counts, partial(_bleu_of_sums, order=order)) for order in range(1, len(BLEU) + 1)]


def _bleu_counts(testlen: int, reflen: list[int], guess: list[int], correct: list[int]) -> list[int]:
    closest = min((abs(length - testlen), length) for length in reflen)[1]
    return [testlen, closest, *guess, *correct]


def _bleu_of_sums(sums: Floats, order: int) -> Floats:
    """Sums (..., 10) of `_bleu_counts` -> BLEU (...,)."""
    length, closest = sums[..., 0], sums[..., 1]
    guess, correct = sums[..., 2 : 2 + order], sums[..., 2 + len(BLEU) : 2 + len(BLEU) + order]
    precisions = (correct + BLEU_TINY) / (guess + BLEU_SMALL)
    brevity = np.exp(np.minimum(0, 1 - (closest + BLEU_SMALL) / (length + BLEU_TINY)))
    return precisions.prod(-1) ** (1 / order) * brevity


def _rouge_l(captions: Captions) -> list[Pooled]:
    """ROUGE-L, F-measure of the longest common subsequence (Lin, 2004)."""
    return [Pooled.mean(import_extra("pycocoevalcap.rouge.rouge", "metrics").Rouge().compute_score(*captions)[1])]


def _cider_d(captions: Captions) -> list[Pooled]:
    """CIDEr-D: CIDEr with clipped counts and a length penalty (Vedantam et al., CVPR 2015), which COCO calls CIDEr."""
    if len(captions.references) < 2:
        raise NotRun("its idf weights need at least two clips")
    return [Pooled.mean(import_extra("pycocoevalcap.cider.cider", "metrics").Cider().compute_score(*captions)[1])]


def _meteor(captions: Captions) -> list[Pooled]:
    """METEOR 1.5 (Denkowski and Lavie, 2014). Its Java program counts the matches; `_meteor_of_sums` is its formula.

    The program scores one corpus a call, in 0.7 s for 1,000 clips: the bootstrap needs the formula. The mean of the
    clips' scores is no substitute, as it lies outside the interval of the corpus score.
    """
    _need_java()
    scorer = _meteor_program()
    groups = captions.references.items()
    try:
        lines = [scorer._stat(captions.predictions[clip][0], references) for clip, references in groups]
        counts = np.array([line.split(" ") for line in lines], dtype=np.float64)
    except (OSError, ValueError) as error:  # it died: a broken pipe, or an empty line
        scorer.meteor_p.kill()
        _meteor_program.cache_clear()
        raise NotRun(f"METEOR's Java program failed: {scorer.meteor_p.stderr.read().decode().strip()}") from error
    word_for_word = (counts[:, 20] == 1) & (counts[:, 21:] == counts[:, :2]).all(-1)
    counts[word_for_word, 20] = 0  # as the program does, for a clip and in a corpus: a reference repeated has no chunk
    return [Pooled(counts, _meteor_of_sums)]


def _meteor_of_sums(sums: Floats) -> Floats:
    """Sums (..., 23) of the program's counts -> METEOR (...,)."""
    lengths, functions = sums[..., :2], sums[..., 2:4]  # words, function words; of the prediction, of the reference
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)  # stage; content, function; prediction, reference
    chunks, matched = sums[..., 20], sums[..., 21:].mean(-1)
    kinds = np.array([METEOR_DELTA, 1 - METEOR_DELTA])  # weights of content and of function words
    weighted = np.einsum("s,k,...skp->...p", METEOR_WEIGHTS, kinds, matches)
    possible = kinds[0] * (lengths - functions) + kinds[1] * functions
    # Without a match, or without a word, precision and recall are 0, and so is their harmonic mean.
    precision, recall = np.moveaxis(weighted / np.maximum(possible, METEOR_TINY), -1, 0)
    f_mean = precision * recall / np.maximum((1 - METEOR_ALPHA) * recall + METEOR_ALPHA * precision, METEOR_TINY)
    fragments = chunks / np.maximum(matched, METEOR_TINY)
    return f_mean * (1 - METEOR_GAMMA * fragments**METEOR_BETA)


@cache
def _meteor_program() -> Any:
    """The running program. It takes seconds to start, so one process serves every call until the interpreter exits."""
    scorer = import_extra("pycocoevalcap.meteor.meteor", "metrics").Meteor()
    atexit.register(_end, scorer.meteor_p)
    return scorer


def _end(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()


def _spice(captions: Captions) -> list[Pooled]:
    """SPICE (Anderson et al., ECCV 2016): F-score of scene-graph tuples."""
    _need_java()
    module = import_extra("pycocoevalcap.spice.spice", "metrics")
    folder = Path(module.__file__).with_name("lib")
    missing = [jar for jar in SPICE_JARS if not (folder / jar).exists()]
    if missing:
        raise NotRun(f"needs CoreNLP 3.6.0, which is not on PyPI: put {' and '.join(missing)} into {folder}")
    try:
        _, each = module.Spice().compute_score(*captions)
    except subprocess.CalledProcessError as error:
        raise NotRun(f"its Java program failed with status {error.returncode}; it needs Java 8 or 11") from error
    return [Pooled.mean([clip["All"]["f"] for clip in each])]


def _fense(captions: Captions) -> list[Pooled]:
    """FENSE, sentence similarity that a fluency error reduces, and FER, the share of captions where one is detected.

    Zhou et al., ICASSP 2022.
    """
    if find_spec("fense") is None or find_spec("sentence_transformers") is None:
        raise NotRun("needs sentence-transformers and the fense package, github.com/blmoistawinde/fense")
    checker = Path(os.environ.get("FENSE_DATA", "~/.fense_data"), FENSE_CHECKER).expanduser()
    if not checker.exists() or not isinstance(try_to_load_from_cache(FENSE_SENTENCES, "config.json"), str):
        raise NotRun(f"needs {checker} and {FENSE_SENTENCES} in the hub's cache")
    fense = import_module("fense.fense").Fense()
    errors = [float(fense.evaluator.detect_error_sent(caption)) for (caption,) in captions.predictions.values()]
    return [Pooled.mean(fense.compute_score(*captions)[1]), Pooled.mean(errors)]


# The metrics that one scorer computes together, and the scorer.
SCORERS: dict[tuple[str, ...], Callable[[Captions], list[Pooled]]] = {
    BLEU: _bleu,
    ("rouge_l",): _rouge_l,
    ("meteor",): _meteor,
    ("cider_d",): _cider_d,
    ("spice",): _spice,
    FENSE: _fense,
}


def _need_java() -> None:
    if shutil.which("java") is None:
        raise NotRun("needs Java: apt-get install default-jre-headless")
