"""Caption metrics of the COCO and DCASE evaluations, computed by pycocoevalcap, and what could not run and why.

Scores are raw: CIDEr-D 1.0 is what papers print as 100 (and can exceed 1), all others run from 0 to 1. They depend on
the tokenizer, so its name goes with them: `ptb` (the Penn Treebank tokenizer of the published figures, needs Java) or
`plain` (lower case, punctuation dropped). Nothing is downloaded.
"""

import atexit
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import try_to_load_from_cache

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
METRICS = (*BLEU, "rouge_l", "meteor", "cider_d", "spice", "spider", "fense")
SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
FENSE_CHECKER = "echecker_clotho_audiocaps_base.ckpt"
FENSE_SENTENCES = "sentence-transformers/paraphrase-TinyBERT-L6-v2"

_Result = tuple[float, list[float]]  # of the corpus, and of each clip


class _Captions(NamedTuple):
    """By clip, in the order and form in which pycocoevalcap's scorers take them."""

    references: dict[int, list[str]]
    predictions: dict[int, list[str]]


class NotRun(Exception):
    """A metric that cannot run here; the message says why."""


@dataclass(frozen=True)
class CaptionScores:
    """Corpus scores (None where a metric did not run), a score for each clip, and the reasons in `not_run`.

    `vocabulary` is the number of distinct words in all predictions: a captioner that says the same of every clip has
    a small one.
    """

    scores: dict[str, float | None]
    per_clip: dict[str, list[float]]
    not_run: dict[str, str]
    tokenizer: str
    vocabulary: int


def score(
    predictions: list[str],
    references: list[list[str]],
    metrics: Sequence[str] | None = None,
    *,
    tokenizer: Literal["ptb", "plain"] | None = None,
) -> CaptionScores:
    """Score one prediction a clip against the clip's reference captions.

    Args:
        predictions: what the captioner said, possibly "".
        references: one or more captions for each clip.
        metrics: some of `METRICS`; None means all of them.
        tokenizer: None takes `ptb` where Java is installed and `plain` elsewhere.

    Corpus BLEU pools its counts over the clips and is not the mean of the clips' scores; METEOR likewise. CIDEr-D takes
    its idf from the references given, so scores of different test sets, or of a part of one, do not compare.

    Raises:
        ValueError: on unequal lengths, nothing to score, a clip without references, or an unknown metric.
        TypeError: on a caption that is not a string.
        ImportError: without pycocoevalcap.
    """
    wanted = METRICS if metrics is None else tuple(metrics)
    _check(predictions, references, wanted)
    tokenizer = tokenizer or ("ptb" if shutil.which("java") else "plain")
    raw = _Captions(dict(enumerate(references)), {i: [caption] for i, caption in enumerate(predictions)})
    tokenized = _tokenized(raw, TOKENIZERS[tokenizer])
    needed = {*wanted, *(("cider_d", "spice") if "spider" in wanted else ())}
    results: dict[str, _Result] = {}
    not_run: dict[str, str] = {}
    for names, scorer in SCORERS.items():
        if needed.isdisjoint(names):
            continue
        try:
            results |= zip(names, scorer(raw if names == ("fense",) else tokenized), strict=True)
        except NotRun as reason:
            not_run |= dict.fromkeys(names, str(reason))
    if "spider" in wanted:
        _add_spider(results, not_run)
    return CaptionScores(
        scores={name: results[name][0] if name in results else None for name in wanted},
        per_clip={name: results[name][1] for name in wanted if name in results},
        not_run={name: not_run[name] for name in wanted if name in not_run},
        tokenizer=tokenizer,
        vocabulary=len({word for (caption,) in tokenized.predictions.values() for word in caption.split()}),
    )


def ptb(captions: list[str]) -> list[str]:
    """The Penn Treebank tokenizer of Stanford CoreNLP, lower case, without punctuation: words joined by a space."""
    module = _pycocoevalcap("tokenizer.ptbtokenizer")
    jar = Path(module.__file__).with_name(module.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    # A line a caption: whatever else breaks lines for Java, U+2028 for one, would shift all that follow.
    lines = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    run = subprocess.run([*command, "-preserveLines", "-lowerCase"], input=lines.encode(), capture_output=True)
    found = run.stdout.decode().split("\n")[:-1]
    if run.returncode or len(found) != len(captions):
        raise RuntimeError(f"the PTB tokenizer failed, pass tokenizer='plain' to do without:\n{run.stderr.decode()}")
    return [" ".join(word for word in line.split() if word not in module.PUNCTUATIONS) for line in found]


def plain(captions: list[str]) -> list[str]:
    """Lower case, runs of letters, digits and inner apostrophes: words joined by a space."""
    return [" ".join(re.findall(r"\w+(?:'\w+)*", caption.lower())) for caption in captions]


TOKENIZERS: dict[str, Callable[[list[str]], list[str]]] = {"ptb": ptb, "plain": plain}


def _bleu(captions: _Captions) -> list[_Result]:
    """BLEU-1 to BLEU-4 with the closest reference length (Papineni et al., ACL 2002)."""
    whole, each = _pycocoevalcap("bleu.bleu").Bleu(4).compute_score(*captions, verbose=0)
    return [_result(*pair) for pair in zip(whole, each, strict=True)]


def _rouge_l(captions: _Captions) -> list[_Result]:
    """ROUGE-L, F-measure of the longest common subsequence (Lin, 2004)."""
    return [_result(*_pycocoevalcap("rouge.rouge").Rouge().compute_score(*captions))]


def _cider_d(captions: _Captions) -> list[_Result]:
    """CIDEr-D: CIDEr with clipped counts and a length penalty (Vedantam et al., CVPR 2015), which COCO calls CIDEr."""
    if len(captions.references) < 2:
        raise NotRun("its idf weights need at least two clips")
    return [_result(*_pycocoevalcap("cider.cider").Cider().compute_score(*captions))]


def _meteor(captions: _Captions) -> list[_Result]:
    """METEOR 1.5 (Denkowski and Lavie, 2014), a Java program that talks through pipes."""
    _need_java()
    scorer = _meteor_program()
    try:
        return [_result(*scorer.compute_score(*captions))]
    except (OSError, ValueError) as error:  # it died: a broken pipe, or nothing to read
        scorer.lock.release()  # still held, and its __del__ would wait for it for ever
        scorer.meteor_p.kill()
        _meteor_program.cache_clear()
        raise NotRun(f"METEOR's Java program failed: {scorer.meteor_p.stderr.read().decode().strip()}") from error


@cache
def _meteor_program() -> Any:
    """The running program: it takes seconds to start, so one serves every call until the interpreter exits."""
    scorer = _pycocoevalcap("meteor.meteor").Meteor()
    atexit.register(_end, scorer.meteor_p)
    return scorer


def _end(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()


def _spice(captions: _Captions) -> list[_Result]:
    """SPICE (Anderson et al., ECCV 2016): F-score of scene-graph tuples."""
    _need_java()
    module = _pycocoevalcap("spice.spice")
    folder = Path(module.__file__).with_name("lib")
    missing = [jar for jar in SPICE_JARS if not (folder / jar).exists()]
    if missing:
        raise NotRun(f"needs CoreNLP 3.6.0, which is not on PyPI: put {' and '.join(missing)} into {folder}")
    try:
        whole, each = module.Spice().compute_score(*captions)
    except subprocess.CalledProcessError as error:
        raise NotRun(f"its Java program failed with status {error.returncode}; it needs Java 8 or 11") from error
    return [_result(whole, [clip["All"]["f"] for clip in each])]


def _fense(captions: _Captions) -> list[_Result]:
    """FENSE (Zhou et al., ICASSP 2022): sentence similarity, cut where a detector finds a fluency error."""
    if find_spec("fense") is None or find_spec("sentence_transformers") is None:
        raise NotRun("needs sentence-transformers and the fense package, github.com/blmoistawinde/fense")
    checker = Path(os.environ.get("FENSE_DATA", "~/.fense_data"), FENSE_CHECKER).expanduser()
    if not checker.exists() or not isinstance(try_to_load_from_cache(FENSE_SENTENCES, "config.json"), str):
        raise NotRun(f"needs {checker} and {FENSE_SENTENCES} in the hub's cache")
    return [_result(*import_module("fense.fense").Fense().compute_score(*captions))]


# What one scorer computes together, and the scorer.
SCORERS: dict[tuple[str, ...], Callable[[_Captions], list[_Result]]] = {
    BLEU: _bleu,
    ("rouge_l",): _rouge_l,
    ("meteor",): _meteor,
    ("cider_d",): _cider_d,
    ("spice",): _spice,
    ("fense",): _fense,
}


def _add_spider(results: dict[str, _Result], not_run: dict[str, str]) -> None:
    """SPIDEr = (CIDEr-D + SPICE) / 2 (Liu et al., ICCV 2017)."""
    missing = [name for name in ("cider_d", "spice") if name in not_run]
    if missing:
        not_run["spider"] = f"needs {' and '.join(missing)}, which did not run"
        return
    (cider, each_cider), (spice, each_spice) = results["cider_d"], results["spice"]
    each = [(a + b) / 2 for a, b in zip(each_cider, each_spice, strict=True)]
    results["spider"] = (cider + spice) / 2, each


def _result(whole: Any, each: Any) -> _Result:
    return float(whole), [float(value) for value in each]


def _tokenized(captions: _Captions, tokenize: Callable[[list[str]], list[str]]) -> _Captions:
    groups = [*captions.references.values(), *captions.predictions.values()]
    words = iter(tokenize([caption for group in groups for caption in group]))
    references, predictions = ({i: [next(words) for _ in group] for i, group in half.items()} for half in captions)
    return _Captions(references, predictions)


def _need_java() -> None:
    if shutil.which("java") is None:
        raise NotRun("needs Java: apt-get install default-jre-headless")


def _pycocoevalcap(module: str) -> Any:
    try:
        return import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise ImportError('caption metrics need pycocoevalcap: pip install "dlink-adapter[metrics]"') from error


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
