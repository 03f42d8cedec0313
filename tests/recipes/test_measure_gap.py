"""The gap study at toy size: what it writes, on what it fits, that it goes on after a kill."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.cli import main as dlink
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes import measure_gap

CHEAP = ["raw", "mean_shift", "ridge"]


@pytest.fixture
def folder(tmp_path, pairs):
    """60 clips of dim 16 with two captions each."""
    audio, text = (rows[:60, :16] for rows in pairs)
    text = (text[:, None] + 0.1 * torch.randn(60, 2, 16, generator=torch.Generator().manual_seed(0))).flatten(0, 1)
    captions = [[f"a sound {i}", f"sound {i} again"] for i in range(60)]
    PairedEmbeddings.write(tmp_path / "pairs", audio, text, captions)
    return tmp_path / "pairs"


def results(out):
    return json.loads((out / "gap.json").read_text())


def test_the_figures_of_a_method_are_those_of_its_folds(folder, tmp_path):
    measure_gap.main(pairs=folder, out=tmp_path / "out", methods=CHEAP, folds=3, seed=7)
    data = PairedEmbeddings.open(folder)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(7))
    found = []
    for fold in range(3):
        tested = set(order[fold::3].tolist())
        train, test = (data.select([c for c in range(60) if (c in tested) == is_test]) for is_test in (False, True))
        bridge = MeanShift(MeanShift.config_class(16))
        bridge.learn(train.split((0.9, 0.1), seed=7)[0], None)
        found.append(measure(bridge(test.audio), test.text, test.clip)["rmg"])
    measured = results(tmp_path / "out")["methods"]["mean_shift"]["rmg"]
    assert measured == pytest.approx({"mean": np.mean(found), "std": np.std(found, ddof=1)}, abs=1e-6)


def test_what_it_writes_and_prints(folder, tmp_path, capsys):
    measure_gap.main(pairs=folder, out=tmp_path / "out", methods=["ridge", "raw"], folds=2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("gap.json", "clouds.png", "cosines.png", "tradeoff.png"),
        *("bridged", "bridges", "stages"),
    }
    found = results(tmp_path / "out")
    assert set(found["methods"]["raw"]) >= {"rmg", "r_at_1", "text_r_at_1", "text_identity", "map_at_10"}
    assert [set(fold) for fold in found["chosen"]["ridge"]] == [{"strength", "fingerprint"}] * 2
    assert found["settings"]["clips"] == 60 and found["settings"]["captions"] == 120
    assert (tmp_path / "out" / "bridges" / "1" / "ridge" / "config.json").is_file()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["RMG", "cosine"]
    assert [row[:27].strip() for row in rows] == ["ridge", "ridge, matched", "raw", "raw, matched"]
    rmg = found["methods"]["ridge"]["rmg"]
    assert rows[0].split()[1:4] == [f"{rmg['mean']:.3f}", "±", f"{rmg['std']:.3f}"]


def test_every_method_has_a_row_with_and_without_matching(folder, tmp_path):
    names = ["kernel_ridge", "diffusion_link"]
    measure_gap.main(pairs=folder, out=tmp_path / "out", methods=names, folds=2, bridge_steps=2)
    assert list(results(tmp_path / "out")["methods"]) == [row for name in names for row in (name, f"{name}, matched")]
    measure_gap.main(pairs=folder, out=tmp_path / "out", methods=names, folds=2, bridge_steps=2, matched=False)
    assert list(results(tmp_path / "out")["methods"]) == names


def test_a_stopped_run_goes_on_and_a_method_can_be_added(folder, tmp_path, monkeypatch):
    fitted, real = [], measure_gap.measure_fold

    def stop_at_the_third(name, *rest):
        fitted.append(name)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(measure_gap, "measure_fold", stop_at_the_third)
    arguments = {"pairs": folder, "out": tmp_path / "out", "folds": 2}
    with pytest.raises(KeyboardInterrupt):
        measure_gap.main(**arguments, methods=["raw", "ridge"])
    assert not (tmp_path / "out" / "gap.json").exists()
    measure_gap.main(**arguments, methods=["raw", "ridge"])
    measure_gap.main(**arguments, methods=["raw", "ridge", "realign"])
    assert fitted == ["raw", "raw", "ridge", "ridge", "ridge", "realign", "realign"]
    with pytest.raises(ValueError, match="other settings"):
        measure_gap.main(**arguments, methods=["raw"], seed=1)


def test_arrays_of_both_kinds(pairs, tmp_path):
    audio, text = (rows[:80, :16].contiguous() for rows in pairs)
    np.save(tmp_path / "a.npy", audio.numpy())
    save_file({"rows": text}, tmp_path / "t.safetensors")
    files = {"audio": tmp_path / "a.npy", "text": tmp_path / "t.safetensors"}
    measure_gap.main(**files, out=tmp_path / "out", methods=["raw"], folds=2)
    assert results(tmp_path / "out")["settings"]["clips"] == 80
    save_file({"rows": text, "more": audio}, tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match="say which"):
        measure_gap.main(**files, out=tmp_path / "out2", methods=["raw"])


def test_the_packaged_config_runs_without_the_llm_extras(folder, tmp_path):
    """Every trained method once, at toy size, from the command line."""
    command = ["measure-gap", "--config", "measure_gap.yaml", "--pairs", str(folder), "--out", str(tmp_path / "out")]
    command += ["--folds", "2", "--bridge_steps", "1", "--methods", "[raw, regression, diffusion_link]"]
    code = "import sys; from dlink_adapter.cli import main\n"
    code += "print(main(sys.argv[1:]), sorted({'transformers', 'peft'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "0 []"
    found = results(tmp_path / "out")
    assert list(found["methods"])[::2] == ["raw", "regression", "diffusion_link"]
    assert found["settings"]["bridge_steps"] == 1
    assert found["chosen"]["diffusion_link"][0]["training"]["clips"] == 27  # a tenth of 30 is held out


def test_the_table_says_what_was_reduced(folder, tmp_path, capsys):
    pytest.importorskip("ema_pytorch", reason='needs the extra "bench"')
    measure_gap.main(pairs=folder, out=tmp_path / "out", methods=["diffusion_bridge"], folds=2, unet_steps=1)
    note = "reduced: 1 training steps of 16 captions, U-Net of width 16"
    rows = ["diffusion_bridge", "diffusion_bridge, matched"]
    assert results(tmp_path / "out")["notes"] == dict.fromkeys(rows, note)
    assert capsys.readouterr().out.splitlines()[-2:] == [f"* {row}: {note}" for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --pairs DIR, or both"),
        (["--audio", "a.npy"], "either --pairs DIR, or both"),
        (["--pairs", "pairs", "--methods", "[raw, teleport]"], "unknown method teleport; known: raw, mean_shift"),
        (["--pairs", "pairs", "--folds", "21"], r"with 60 clips it must lie in \[2, 20\]"),
    ],
)
def test_wrong_usage(options, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLINK_TRACEBACK", "1")
    with pytest.raises(ValueError, match=message):
        dlink(["measure-gap", *options])
