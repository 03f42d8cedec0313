"""`dlink audiocaps` on a folder of AudioCaps' shape, and every key of its full-size configs, run for a step."""

import inspect
import json
from pathlib import Path

import pytest

from dlink_adapter.cli import config_path
from dlink_adapter.cli import main as dlink
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.measure.predictions import read_predictions
from dlink_adapter.recipes import audiocaps


def run(audiocaps_folder, demo_folder, out, **options):
    configs = {"bridge": "bridge.yaml", "zero_shot": "text.yaml", "supervised": "audio.yaml"}
    given = {name: str(audiocaps_folder / config) for name, config in configs.items()}
    parts = {"clap": "small", "llm": str(demo_folder / "llama")}
    audiocaps.main(out=out, **{"data": audiocaps_folder, **given, **parts, **options})
    return json.loads((out / "results.json").read_text())


def test_both_set_ups_and_a_stop_in_between(audiocaps_folder, demo_folder, tmp_path, monkeypatch, capsys):
    whole = run(audiocaps_folder, demo_folder, tmp_path / "whole")
    assert set(whole["captions"]) == {"zero_shot", "supervised"}
    assert all(set(of) == {"raw", "diffusion_link"} for of in (whole["gap"], *whole["captions"].values()))
    assert whole["clips"]["train"] == {"clips": 9, "missing": 1, "unreadable": 0}
    evaluation = whole["evaluation"]["zero_shot"]["diffusion_link"]
    assert evaluation["clips"]["scored"] == 4 and evaluation["clips"]["without_prediction"] == 1
    assert set(evaluation["against"]["differences"]["cider_d"]) >= {"difference", "interval", "p"}
    shown = capsys.readouterr()
    assert "| **measured** here | 4 |" in shown.out and "published: " in shown.out
    assert (tmp_path / "whole" / "report.md").read_text().strip() in shown.out
    assert "dlink train-captioner --config" in shown.err
    for picture in ("clouds.png", "captions.png", "comparison.png"):
        assert (tmp_path / "whole" / picture).read_bytes().startswith(b"\x89PNG")
    said = read_predictions(tmp_path / "whole" / "said" / "zero_shot" / "raw.jsonl")
    assert list(said) == [f"id-{number}_{10 * clip}" for clip, number in enumerate(range(15, 19))]

    run_command, commands = audiocaps.run, []

    def stopping(recipe, argv):
        commands.append(recipe.name)
        if len(commands) == 8:
            raise KeyboardInterrupt
        return run_command(recipe, argv)

    monkeypatch.setattr(audiocaps, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(audiocaps_folder, demo_folder, tmp_path / "stopped")
    resumed = run(audiocaps_folder, demo_folder, tmp_path / "stopped")
    assert capsys.readouterr().err.count("done before") == 8
    assert all(resumed[part] == whole[part] for part in ("captions", "gap", "evaluation"))


def test_what_is_missing_is_named(audiocaps_folder, demo_folder, tmp_path):
    with pytest.raises(ValueError, match="unknown method nothing; known: raw"):
        run(audiocaps_folder, demo_folder, tmp_path, methods=["nothing"])
    with pytest.raises(FileNotFoundError, match=r"neither train.csv nor audiocaps_train.csv"):
        run(audiocaps_folder, demo_folder, tmp_path, data=tmp_path)


@pytest.mark.parametrize("setup", ["zero_shot", "supervised"])
def test_the_default_language_model_can_be_had_by_everyone(setup):
    config = inspect.signature(audiocaps.main).parameters[setup].default
    assert "base_model: HuggingFaceTB/SmolLM2-135M" in Path(config_path(config)).read_text()


@pytest.mark.parametrize("name", ["zero_shot", "supervised", "zero_shot_smollm2", "supervised_smollm2"])
def test_a_step_of_the_captioners(name, demo_folder, tmp_path):
    parts, out = demo_folder / "embeddings", tmp_path / "out"
    options = [
        *("--pairs", parts / "pairs", "--val", parts / "val", "--bridge", demo_folder / "bridges" / "diffusion_link"),
        *("--captioner.base_model", demo_folder / "llama", "--captioner.encoder_path", "small"),
        *("--training.steps", 1, "--training.save_every", 1, "--out", out),
    ]
    assert dlink(["train-captioner", "--config", f"audiocaps_{name}.yaml", *map(str, options)]) == 0
    saved = json.loads((out / "captioner.json").read_text())
    assert saved["quantize"] == (None if "smollm2" in name else "nf4") and saved["tuning"] == "lora"
    assert dlink(["caption", str(demo_folder / "examples" / "00.wav"), "--model", str(out)]) == 0


def test_a_step_of_the_rest(audiocaps_folder, demo_folder, tmp_path, capsys):
    def step(*parts):
        assert dlink([str(part) for part in parts]) == 0, capsys.readouterr().err

    pairs, config = tmp_path / "pairs", "audiocaps_{}.yaml".format
    step("extract-embeddings", audiocaps_folder / "audiocaps_train.csv", "--config", config("extract"),
         "--media", audiocaps_folder, "--model", "small", "--out", pairs)  # fmt: skip
    assert PairedEmbeddings.open(pairs).clips == 9
    embedded = demo_folder / "embeddings"
    step("train-bridge", "--config", config("bridge"), "--pairs", embedded / "pairs", "--val", embedded / "val",
         "--fit.steps", 1, "--out", tmp_path / "bridge")  # fmt: skip
    step("ablate-depth", "--config", config("depth"), "--pairs", embedded / "pairs", "--test", embedded / "test",
         "--llm", demo_folder / "llama", "--text_embeddings", embedded / "text.safetensors",
         "--captions", embedded / "text.txt", "--captioner_steps", "{start: 1, text: 1, audio: 0}",
         "--bridge_steps", 1, "--timesteps", "[200, 1000]", "--baselines", "[raw]",
         "--out", tmp_path / "depth")  # fmt: skip
    assert (tmp_path / "depth" / "depth.png").is_file()
