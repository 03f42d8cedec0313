"""The main job at toy size: what it writes, that it is not done twice, and that a killed stage is done again."""

import json

import pytest
import soundfile

from dlink_adapter import load_bridge
from dlink_adapter.captioner.config import read_captioner_config
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.extract.encoders import load_encoder
from dlink_adapter.integrations.causal_lm import load_captioner
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes import demo
from dlink_adapter.recipes.captioner_rows import CaptionerRows
from dlink_adapter.recipes.demo_parts import FAST, make_clap
from dlink_adapter.recipes.demo_report import EXAMPLES
from dlink_adapter.soundscapes.world import World

CAPTION_METRICS = {"bleu_1", "bleu_4", "rouge_l", "meteor", "cider_d", "spice"}
GAP_METRICS = {"rmg", "paired_cosine", "centroid_distance", "r_at_1", "gram_error", "text_identity"}


def test_results_hold_every_method_and_setup(demo_folder):
    results = json.loads((demo_folder / "results.json").read_text())
    assert set(results["captions"]) == {"zero_shot", "supervised"}
    for setup, by_method in results["captions"].items():
        assert list(by_method) == list(demo.METHODS)
        for method, scores in by_method.items():
            low, high = results["intervals"][setup][method]["cider_d"]
            assert low <= scores["cider_d"] <= high
            assert set(scores) >= CAPTION_METRICS and scores["cider_d"] >= 0 and 0 <= scores["events_right"] <= 1
            for metric in (name for name, value in scores.items() if value is None):
                assert results["not_run"][metric]
    assert all(set(gap) >= GAP_METRICS for gap in results["gap"].values())
    stages = {"embeddings", "bridges", "llama", "start", "text_clean", "captions_ridge+clean", "scores", "confidence"}
    assert stages <= set(results["seconds"])
    assert results["seed"] == 0 and {"torch", "transformers"} <= set(results["versions"])


def test_figures_examples_and_parts_are_there(demo_folder):
    for picture in ("clouds.png", "captions.png"):
        assert (demo_folder / picture).read_bytes().startswith(b"\x89PNG")
    assert len((demo_folder / "examples" / "examples.md").read_text().splitlines()) == 4 + EXAMPLES
    assert soundfile.info(demo_folder / "examples" / "00.wav").duration == 5
    test = PairedEmbeddings.open(demo_folder / "embeddings" / "test")
    assert len(test) == 5 * test.clips
    captioner = load_captioner(demo_folder)
    captioner.bridge.check_encoder(test.metadata["fingerprint"])
    assert len(captioner.generate(test.audio[:2])) == 2


def test_the_bridge_is_saved_with_the_gap_it_closed(demo_folder):
    folder = demo_folder / "bridges" / "diffusion_link"
    bridge, val = load_bridge(folder), PairedEmbeddings.open(demo_folder / "embeddings" / "val")
    rmg = [measure(rows, val.text, val.clip)["rmg"] for rows in (val.audio, bridge(val.audio))]
    assert bridge.metadata["gap_before_and_after"]["rmg"] == pytest.approx(rmg, abs=1e-4)
    assert "gap before and after" in (folder / "README.md").read_text()


def test_rows_share_the_training_on_text_that_no_bridge_has_a_part_in(demo_folder):
    made = {folder.name for folder in (demo_folder / "captioners").iterdir()}
    assert made == {"start", *(row.text_training for row in demo.METHODS.values())}
    assert {row.text_training for name, row in demo.METHODS.items() if row.condition == "clean"} == {"clean"}
    assert load_captioner(demo_folder / "captioners" / "clean").bridge.name == "raw"  # the first of them


@pytest.mark.parametrize("method", ["ridge", "bridge", "raw_pseudo_audio"])
def test_a_captioner_says_which_text_condition_it_was_trained_with(demo_folder, method):
    row = demo.METHODS[method]
    folder, condition = demo_folder / "captioners" / row.text_training, row.condition
    assert read_captioner_config(folder).text_condition == condition
    assert f"stood in for audio as: {condition}." in (folder / "README.md").read_text()
    assert load_captioner(folder).text_condition.training_rows == (64 if condition == "pseudo_audio" else 0)


def test_done_stages_are_not_done_again(demo_folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in demo_folder.rglob("model.safetensors")}
    demo.main(demo_folder, fast=True)
    assert capsys.readouterr().err.count("done before") == 6 + CaptionerRows.stages(demo.METHODS)
    assert {path: path.stat().st_mtime_ns for path in demo_folder.rglob("model.safetensors")} == before


def test_from_scratch_it_trains_a_clap_of_its_own(tmp_path):
    make_clap(World(0, FAST.scenes), FAST.clap_steps, tmp_path / "clap")
    encoder = load_encoder("clap", str(tmp_path / "clap"))
    assert encoder.fingerprint != load_encoder("clap", "small").fingerprint


def test_another_seed_needs_another_folder(demo_folder):
    with pytest.raises(ValueError, match="other settings"):
        demo.main(demo_folder, seed=1, fast=True)
