"""Scores of generated captions and of a resample of them, against pycocoevalcap called directly."""

import shutil

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.caption_scorers import BLEU, _meteor_program
from dlink_adapter.measure.caption_tokenizers import plain
from dlink_adapter.soundscapes.captions import references
from dlink_adapter.soundscapes.world import World

CLIPS = 40


@pytest.fixture(scope="module")
def generated() -> tuple[list[str], list[list[str]]]:
    """Predictions and references of scenes of the grammar. Every fifth prediction is of another scene, every seventh is
    one of the references, the last is empty."""
    groups = [references(scene, 5, seed=0) for scene in World(0, {"test": CLIPS}).scenes("test")]
    said = [groups[(clip + 1) % CLIPS if clip % 5 == 0 else clip][0] for clip in range(CLIPS)]
    said[::7] = [group[1] for group in groups[::7]]
    return [*said[:-1], ""], [group[1:] for group in groups]


@pytest.fixture(scope="module")
def in_coco_form(generated):
    said, groups = generated
    return {i: plain(group) for i, group in enumerate(groups)}, {i: plain([caption]) for i, caption in enumerate(said)}


def test_without_java_the_scores_are_pycocoevalcaps(generated, in_coco_form):
    found = score(*generated, (*BLEU, "rouge_l", "cider_d"), tokenizer="plain")
    bleu, each_bleu = Bleu(4).compute_score(*in_coco_form, verbose=0)
    expected = dict(zip(BLEU, zip(bleu, each_bleu, strict=True), strict=True))
    expected |= {"rouge_l": Rouge().compute_score(*in_coco_form), "cider_d": Cider().compute_score(*in_coco_form)}
    for name, (whole, each) in expected.items():
        assert found.scores[name] == pytest.approx(whole, abs=1e-12)
        assert found.per_clip[name] == pytest.approx(list(each), abs=1e-12)


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_meteor_is_the_programs_and_so_is_that_of_a_resample(generated, in_coco_form):
    found, program = score(*generated, ["meteor"], tokenizer="plain"), _meteor_program()
    whole, each = program.compute_score(*in_coco_form)
    assert found.scores["meteor"] == pytest.approx(whole, abs=1e-6)
    assert found.per_clip["meteor"] == pytest.approx(each, abs=1e-6) and each[-1] == 0
    drawn = np.random.default_rng(0).integers(CLIPS, size=CLIPS)
    whole, _ = program.compute_score(*({i: half[j] for i, j in enumerate(drawn)} for half in in_coco_form))
    assert found.pooled["meteor"](drawn) == pytest.approx(whole, abs=1e-6)


def test_mean_length_is_in_words():
    assert score(["A dog barks.", "rain"], [["a"], ["b"]], ["bleu_1"], tokenizer="plain").mean_length == 2
