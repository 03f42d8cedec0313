"""The caption metrics of the COCO and DCASE evaluations, computed by pycocoevalcap, and why any of them could not run.

Scores are raw: a CIDEr-D of 1.0 is printed as 100 in papers, and can exceed 1; all others run from 0 to 1. They depend
on the tokenizer, so its name is kept with them: `ptb` is the Penn Treebank tokenizer of the published figures and needs
Java, `plain` is lower case without punctuation. Nothing is downloaded.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dlink_adapter.measure.caption_scorers import BLEU, FENSE, SCORERS, Captions, NotRun
from dlink_adapter.measure.caption_tokenizers import TOKENIZERS
from dlink_adapter.measure.significance import Pooled

METRICS = (*BLEU, "rouge_l", "meteor", "cider_d", "spice", "spider", "fense", "fer", "spider_fl")
SUMS = {"spider": ("cider_d", "spice"), "spider_fl": ("cider_d", "spice", "fer")}  # metrics made of others
FLUENCY_PENALTY = 0.9


@dataclass(frozen=True)
class CaptionScores:
    """Corpus scores (None where a metric did not run), a score for each clip, and the reasons in `not_run`.

    `vocabulary` is the number of distinct words in all predictions, small where every clip gets the same caption.
    `mean_length` is the mean length of a prediction in words. `pooled` is what `significance` takes.
    """

    scores: dict[str, float | None]
    per_clip: dict[str, list[float]]
    pooled: dict[str, Pooled]
    not_run: dict[str, str]
    tokenizer: str
    vocabulary: int
    mean_length: float


def score(
    predictions: list[str],
    references: list[list[str]],
    metrics: str | Sequence[str] | None = None,
    *,
    tokenizer: Literal["ptb", "plain"] | None = None,
) -> CaptionScores:
    """Score one prediction a clip, possibly "", against the clip's reference captions, of which there are one or more.

    `metrics` are one or some of `METRICS`, by default all of them. Without a `tokenizer` it is `ptb` where Java is
    installed and `plain` elsewhere.

    Corpus BLEU and METEOR are functions of counts summed over the clips, not means of the clips' scores. CIDEr-D takes
    its idf from the references given, so scores of different test sets, or of parts of one, cannot be compared.

    Raises ValueError on unequal lengths, nothing to score, a clip without references, or an unknown metric, TypeError
    on a caption that is not a string, and ImportError without pycocoevalcap.
    """
    wanted = METRICS if metrics is None else (metrics,) if isinstance(metrics, str) else tuple(metrics)
    _check(predictions, references, wanted)
    tokenizer = tokenizer or ("ptb" if shutil.which("java") else "plain")
    raw = Captions(dict(enumerate(references)), {i: [caption] for i, caption in enumerate(predictions)})
    tokenized = _tokenized(raw, TOKENIZERS[tokenizer])
    needed = {*wanted}.union(*(SUMS.get(name, ()) for name in wanted))
    results: dict[str, Pooled] = {}
    not_run: dict[str, str] = {}
    for names, scorer in SCORERS.items():
        if needed.isdisjoint(names):
            continue
        try:
            results |= zip(names, scorer(raw if names == FENSE else tokenized), strict=True)
        except NotRun as reason:
            not_run |= dict.fromkeys(names, str(reason))
    for name in SUMS.keys() & wanted:
        _add_sum(name, results, not_run)
    pooled = {name: results[name] for name in wanted if name in results}
    predicted = [caption.split() for (caption,) in tokenized.predictions.values()]
    return CaptionScores(
        scores={name: pooled[name].corpus if name in pooled else None for name in wanted},
        per_clip={name: corpus.clips for name, corpus in pooled.items()},
        pooled=pooled,
        not_run={name: not_run[name] for name in wanted if name in not_run},
        tokenizer=tokenizer,
        vocabulary=len({word for words in predicted for word in words}),
        mean_length=sum(map(len, predicted)) / len(predicted),
    )


def _add_sum(name: str, results: dict[str, Pooled], not_run: dict[str, str]) -> None:
    """SPIDEr = (CIDEr-D + SPICE) / 2 (Liu et al., ICCV 2017); SPIDEr-FL is a tenth of it where there is a fluency error
    (Gontier et al., ICASSP 2023)."""
    if missing := [part for part in SUMS[name] if part in not_run]:
        not_run[name] = f"needs {' and '.join(missing)}, which did not run"
        return
    cider_d, spice, *errors = (np.array(results[part].clips) for part in SUMS[name])
    results[name] = Pooled.mean((cider_d + spice) / 2 * (1 - FLUENCY_PENALTY * errors[0] if errors else 1))


def _tokenized(captions: Captions, tokenize: Callable[[list[str]], list[str]]) -> Captions:
    groups = [*captions.references.values(), *captions.predictions.values()]
    words = iter(tokenize([caption for group in groups for caption in group]))
    references, predictions = ({i: [next(words) for _ in group] for i, group in half.items()} for half in captions)
    return Captions(references, predictions)


def _check(predictions: Sequence[Any], references: Sequence[Any], wanted: tuple[str, ...]) -> None:
    if unknown := set(wanted) - set(METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}: choose from {', '.join(METRICS)}")
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"one prediction a clip: got {len(predictions)}, and references for {len(references)} clips")
    for clip, (prediction, group) in enumerate(zip(predictions, references, strict=True)):
        if isinstance(group, str):
            raise TypeError(f"references[{clip}] must be a list of captions, got the string {group!r}")
        for caption in (prediction, *group):
            if not isinstance(caption, str):
                raise TypeError(f"clip {clip} has a caption that is not a string: {caption!r}")
        if not group or not all(caption.strip() for caption in group):
            raise ValueError(f"clip {clip} has no reference caption, or an empty one: {group}")
