"""Caption metrics against pycocoevalcap called directly, and by hand."""

import os
import shutil
import subprocess
import sys

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from dlink_adapter.measure import caption_scorers
from dlink_adapter.measure.caption_metrics import METRICS, CaptionScores, score
from dlink_adapter.measure.caption_scorers import BLEU
from dlink_adapter.measure.significance import Pooled

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
NO_JAVA = ("rouge_l", "cider_d", *BLEU)

PREDICTIONS = [
    "A dog barks while rain falls.",
    "A man speaks, then a bell rings",
    "Wind blows (hard) and birds chirp",
    "an engine",
    "",
]
REFERENCES = [
    ["A dog barks in the rain.", "Rain is falling; a dog's barking!", "A dog barks"],
    ["A bell rings after a man speaks.", "A man speaks and then a bell rings."],
    ["Birds chirp as the wind blows.", "Wind blowing and birds chirping"],
    ["An engine idles", "A car engine is running - loudly", "engine hums", "A motor runs", "Vehicle noise"],
    ["Water drips."],
]


def in_coco_form(captions: list[list[str]]) -> dict[int, list[dict[str, str]]]:
    return {i: [{"caption": caption} for caption in group] for i, group in enumerate(captions)}


@pytest.fixture(scope="module")
def everything() -> CaptionScores:
    """All metrics, once: METEOR's Java program reads its paraphrase table for seconds each time it starts."""
    return score(PREDICTIONS, REFERENCES)


@needs_java
def test_agrees_with_pycocoevalcap(everything):
    references = PTBTokenizer().tokenize(in_coco_form(REFERENCES))
    predictions = PTBTokenizer().tokenize(in_coco_form([[p] for p in PREDICTIONS[:4]])) | {4: [""]}
    assert everything.tokenizer == "ptb"
    for name, scorer in (("rouge_l", Rouge()), ("cider_d", Cider()), ("meteor", Meteor())):
        whole, each = scorer.compute_score(references, predictions)
        assert everything.scores[name] == pytest.approx(whole, abs=1e-6)
        assert everything.per_clip[name] == pytest.approx(list(each), abs=1e-6)
    whole, each = Bleu(4).compute_score(references, predictions, verbose=0)
    assert [everything.scores[name] for name in BLEU] == pytest.approx(whole, abs=1e-6)
    assert everything.per_clip["bleu_4"] == pytest.approx(each[3], abs=1e-6)


def test_perfect_and_worthless_captions():
    captions = [f"a {animal} calls near the old {place}" for animal, place in zip("abcdef", "uvwxyz", strict=True)]
    perfect = score(captions, [[c] for c in captions], NO_JAVA, tokenizer="plain").scores
    assert perfect["rouge_l"] == pytest.approx(1) and perfect["bleu_4"] == pytest.approx(1)
    assert perfect["cider_d"] == pytest.approx(10)  # pycocoevalcap's scale: the mean cosine times ten
    worthless = score(["nothing"] * 6, [[c] for c in captions], NO_JAVA, tokenizer="plain").scores
    assert list(worthless.values()) == pytest.approx([0] * 6, abs=1e-4)


def test_by_hand():
    """Unigrams: 4 of 5 match; bigrams: 2 of 4; the longest common subsequence has 4 words of 5 and of 6."""
    result = score(["a dog barks at night"] * 2, [["a dog was heard at night"]] * 2, ("bleu_1", "rouge_l", "bleu_2"))
    brevity = 2.718281828459045 ** (1 - 6 / 5)
    precision, recall, beta = 4 / 5, 4 / 6, 1.2
    assert result.scores["bleu_1"] == pytest.approx(brevity * 4 / 5, abs=1e-6)
    assert result.scores["bleu_2"] == pytest.approx(brevity * (4 / 5 * 2 / 4) ** 0.5, abs=1e-6)
    f_measure = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert result.scores["rouge_l"] == pytest.approx(f_measure)
    assert list(result.scores) == ["bleu_1", "rouge_l", "bleu_2"] and result.vocabulary == 5


def test_every_metric_has_a_score_or_a_reason(everything):
    assert tuple(everything.scores) == METRICS
    for name in METRICS:
        assert (everything.scores[name] is None) == (name in everything.not_run) != (name in everything.per_clip)
        assert len(everything.per_clip.get(name, PREDICTIONS)) == len(PREDICTIONS)
    assert everything.vocabulary == 21


def test_without_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = score(PREDICTIONS, REFERENCES, (*NO_JAVA, "meteor", "spice"))
    assert result.tokenizer == "plain"
    assert set(result.not_run) == {"meteor", "spice"} and "Java" in result.not_run["meteor"]
    assert result.scores["meteor"] is None and result.scores["cider_d"] > 0


def test_java_that_fails(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no room for the heap >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    caption_scorers._meteor_program.cache_clear()  # the one that runs found the real Java
    result = score(PREDICTIONS, REFERENCES, ["meteor", "rouge_l"], tokenizer="plain")
    assert "no room for the heap" in result.not_run["meteor"] and result.scores["rouge_l"] > 0
    with pytest.raises(RuntimeError, match=r"tokenizer='plain'(.|\n)*no room for the heap"):
        score(PREDICTIONS, REFERENCES, ["rouge_l"])


@needs_java
def test_spice_is_not_downloaded(monkeypatch):
    monkeypatch.setattr(caption_scorers, "SPICE_JARS", ("no-such.jar",))
    result = score(PREDICTIONS, REFERENCES, ["spider"])
    assert result.scores == {"spider": None} and "spice" in result.not_run["spider"]
    assert "no-such.jar" in score(PREDICTIONS, REFERENCES, ["spice"]).not_run["spice"]


def test_spider_is_the_mean(monkeypatch):
    spice = Pooled.mean([0.5, 0.0, 0.25, 0.25, 0.25])
    monkeypatch.setitem(caption_scorers.SCORERS, ("spice",), lambda captions: [spice])
    result = score(PREDICTIONS, REFERENCES, ["cider_d", "spider"], tokenizer="plain")
    assert result.scores["spider"] == pytest.approx((result.scores["cider_d"] + 0.25) / 2)
    assert result.per_clip["spider"][0] == pytest.approx((result.per_clip["cider_d"][0] + 0.5) / 2)


def test_spider_fl_is_a_tenth_of_spider_where_there_is_a_fluency_error(monkeypatch):
    spice, fense, fer = map(Pooled.mean, ([0.5] * 5, [0.3] * 5, [0.0, 1.0, 0.0, 0.0, 0.0]))
    monkeypatch.setitem(caption_scorers.SCORERS, ("spice",), lambda captions: [spice])
    monkeypatch.setitem(caption_scorers.SCORERS, caption_scorers.FENSE, lambda captions: [fense, fer])
    found = score(PREDICTIONS, REFERENCES, ["spider", "spider_fl", "fer"], tokenizer="plain")
    spider = found.per_clip["spider"]
    assert found.per_clip["spider_fl"] == pytest.approx([spider[0], 0.1 * spider[1], *spider[2:]])
    assert found.scores["fer"] == pytest.approx(0.2)


def test_what_spider_fl_needs_is_named():
    assert "fer" in score(PREDICTIONS, REFERENCES, ["spider_fl"], tokenizer="plain").not_run["spider_fl"]


def test_cider_needs_two_clips():
    result = score(["a dog"], [["a dog"]], ["cider_d", "bleu_1"], tokenizer="plain")
    assert "two clips" in result.not_run["cider_d"] and result.scores["bleu_1"] == pytest.approx(1)


def test_nothing_is_printed(capfd):
    score(PREDICTIONS, REFERENCES, (*NO_JAVA, "spider"))
    assert capfd.readouterr() == ("", "")


@needs_java
def test_java_starts_once_and_ends_with_the_interpreter():
    code = """
from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.caption_scorers import _meteor_program
for _ in range(2):
    assert score(["a dog", "a cat"], [["a dog"], ["a cat"]], ["meteor"], tokenizer="plain").scores["meteor"]
print(_meteor_program.cache_info().misses, _meteor_program().meteor_p.pid)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    starts, pid = map(int, run.stdout.split())
    assert starts == 1 and run.returncode == 0, run.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("predictions", "references", "metrics", "error", "message"),
    [
        (["a"], [["a"], ["b"]], None, ValueError, "got 1, and references for 2 clips"),
        ([], [], None, ValueError, "got 0"),
        (["a", "b"], [["a"], []], None, ValueError, "clip 1 has no reference"),
        (["a"], [["a", " "]], None, ValueError, "clip 0 has no reference caption, or an empty one"),
        (["a", None], [["a"], ["b"]], None, TypeError, "clip 1 has a caption that is not a string: None"),
        (["a"], [["a", 3]], None, TypeError, "not a string: 3"),
        (["a"], ["a dog"], None, TypeError, r"references\[0\] must be a list of captions"),
        (["a"], [["a"]], ["cider"], ValueError, r"unknown metrics \['cider'\]: choose from bleu_1"),
    ],
)
def test_bad_input(predictions, references, metrics, error, message):
    with pytest.raises(error, match=message):
        score(predictions, references, metrics)


def test_missing_library_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=r'pip install "dlink-adapter\[metrics\]"'):
        score(["a", "b"], [["a"], ["b"]], ["bleu_1"], tokenizer="plain")
