"""The recipe of the shipped CLAP at toy size: what it writes and leaves, and that a killed run goes on."""

import json
import shutil

import pytest

pytest.importorskip("transformers")

from dlink_adapter.extract.encoders import load_encoder
from dlink_adapter.recipes.train_small_clap import ClapTrainerConfig, main

TOY = {"scenes": 24, "test_scenes": 8, "epochs": 2, "width": 16}
TRAINING = ClapTrainerConfig(batch_size=8, save_every=4, log_every=2, bf16=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small-clap")
    main(out=folder, **TOY, training=TRAINING)
    return folder


def test_the_model_comes_with_its_card_its_scores_and_its_log(run):
    assert load_encoder("clap", str(run / "clap")).dim == 256
    record = json.loads((run / "clap" / "scores.json").read_text())
    assert 0 <= record["scores"]["r_at_1"] <= record["scores"]["r_at_10"] <= 1
    assert record["settings"]["training"]["steps"] == 6 and record["settings"]["scenes"] == 24
    card = (run / "clap" / "README.md").read_text()
    assert "license: apache-2.0" in card and "24 procedural scenes" in card
    assert f"| rmg | {record['scores']['rmg']:.3f} |" in card
    log = [json.loads(line) for line in (run / "clap" / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6] and all(line["loss"] > 0 for line in log)


def test_a_run_that_is_done_is_not_done_again(run, capsys):
    before = (run / "clap" / "model.safetensors").stat().st_mtime_ns
    main(out=run, **TOY, training=TRAINING)
    assert capsys.readouterr().err.count("done before") == 3
    assert (run / "clap" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_that_was_killed_goes_on(run, tmp_path):
    shutil.copytree(run / "stages", tmp_path / "stages")
    for stage in ("mels", "training", "scores"):
        (tmp_path / "stages" / f"{stage}.json").unlink()
    (tmp_path / "mels.npy").write_bytes(b"half")  # killed while rendering
    main(out=tmp_path, **TOY, training=TRAINING)
    weights = [(folder / "clap" / "model.safetensors").read_bytes() for folder in (run, tmp_path)]
    assert weights[0] == weights[1]
    assert {path.name for path in tmp_path.iterdir()} == {"clap", "stages"}


def test_settings_that_cannot_be_are_refused_before_anything_is_rendered(tmp_path):
    with pytest.raises(ValueError, match="must be at least 1"):
        main(out=tmp_path / "run", **{**TOY, "epochs": 0})
    assert not (tmp_path / "run").exists()


def test_other_settings_need_another_folder(run):
    with pytest.raises(ValueError, match="epochs 2 then, 3 now"):
        main(out=run, **{**TOY, "epochs": 3}, training=TRAINING)
