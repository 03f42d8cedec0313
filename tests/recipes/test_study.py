"""A study at toy size: which rows it has, what they share, what it says, and that it goes on where it was."""

import json

import pytest

from dlink_adapter import load_bridge
from dlink_adapter.captioner.config import read_captioner_config
from dlink_adapter.recipes import study
from dlink_adapter.recipes.captioner_rows import Row
from dlink_adapter.recipes.captioner_settings import CaptionerSteps
from dlink_adapter.recipes.study import CONDITIONS
from dlink_adapter.recipes.study_parts import rows_of

VARIANTS = {"deep": {"cosine": 0.5}}
ROWS = {
    f"{bridge}, {condition}"
    for bridge in ("raw", "ridge", "diffusion link", "deep")
    for condition in ("clean", "bridged")
}


@pytest.fixture(scope="module")
def arguments(demo_folder, tmp_path_factory):
    embeddings = demo_folder / "embeddings"
    return {
        **{name: embeddings / name for name in ("pairs", "val", "test")},
        "text_embeddings": embeddings / "text.safetensors",
        "captions": embeddings / "text.txt",
        "llm": str(demo_folder / "llama"),
        "out": tmp_path_factory.mktemp("study") / "out",
        "bridges": ["raw", "ridge", "diffusion_link"],
        "conditions": ["clean", "bridged"],
        "variants": VARIANTS,
        "seeds": [0, 1],
        "bridge_steps": 5,
        "steps": CaptionerSteps(2, 2, 2),
    }


@pytest.fixture(scope="module")
def results(arguments):
    study.main(**arguments)
    return json.loads((arguments["out"] / "study.json").read_text())


def test_every_row_has_its_figures(results, arguments):
    assert set(results["reading_gain"]) == ROWS and results["seeds"] == [0, 1]
    assert set(results["gap"]) == {"raw", "ridge", "diffusion_link", "deep"}
    for rows in results["captions"].values():
        assert set(rows) == ROWS
        for row in rows.values():
            low, high = row["interval"]
            assert low <= row["cider_d"] <= high
    assert results["captions"]["zero_shot"]["raw, clean"]["headroom_closed"] == 0
    assert results["captions"]["supervised"]["raw, clean"]["headroom_closed"] == 1
    assert (arguments["out"] / "study.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_compared_under_their_own_condition(results):
    of_deep = results["captions"]["zero_shot"]["deep, bridged"]["minus"]
    assert {"raw, clean", "diffusion link, bridged"} < set(of_deep) and len(of_deep) == 3
    assert set(of_deep) - {"raw, clean", "diffusion link, bridged"} <= {"raw, bridged", "ridge, bridged"}
    scores = {label: row["cider_d"] for label, row in results["captions"]["zero_shot"].items()}
    for other, found in of_deep.items():
        assert found["difference"] == pytest.approx(scores["deep, bridged"] - scores[other])


def test_what_leaves_text_as_it_is_shares_the_training_on_clean_captions(results, arguments):
    """So its captions are the same, and no step was taken twice."""
    rows = results["captions"]["zero_shot"]
    assert rows["ridge, bridged"]["cider_d"] == rows["ridge, clean"]["cider_d"]
    made = {folder.name for folder in (arguments["out"] / "seed-0" / "captioners").iterdir()}
    assert made == {"start", "clean", "diffusion_link+bridged", "deep+bridged"}
    assert (
        read_captioner_config(arguments["out"] / "seed-0" / "captioners" / "deep+bridged").text_condition == "bridged"
    )


def test_a_variant_is_a_link_with_its_settings(results, arguments):
    deep = load_bridge(arguments["out"] / "seed-1" / "bridges" / "deep")
    assert deep.name == "diffusion_link" and deep.config.cosine == 0.5
    other = load_bridge(arguments["out"] / "seed-0" / "bridges" / "deep")
    assert not deep.denoiser.out.weight.equal(other.denoiser.out.weight)  # of another seed


def test_it_goes_on_where_it_was(results, arguments, capsys):
    study.main(**arguments)
    shown = capsys.readouterr()
    assert all("done before" in line for line in shown.err.splitlines() if line.startswith("["))
    assert "deep, bridged" in shown.out
    assert json.loads((arguments["out"] / "study.json").read_text()) == results


def test_the_screen_trains_no_captioner(arguments, tmp_path, capsys):
    study.main(**{**arguments, "out": tmp_path, "seeds": [0], "conditions": CONDITIONS}, screen=True)
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["captions"] == {} and not (tmp_path / "seed-0" / "captioners").exists()
    assert {"raw, gaussian", "deep, pseudo audio"} < set(found["reading_gain"])
    sigma = json.loads((tmp_path / "seed-0" / "stages" / "screen_raw, gaussian.json").read_text())["result"]["sigma"]
    assert Row("raw", "gaussian", sigma).text_training == f"gaussian-{sigma:g}"
    assert "CIDEr-D" not in capsys.readouterr().out


def test_what_it_refuses(arguments):
    with pytest.raises(ValueError, match="unknown ridg; known: raw"):
        rows_of(["ridg"], ["clean"], [])
    with pytest.raises(ValueError, match="unknown noisy; known: clean"):
        rows_of(["ridge"], ["noisy"], [])
    with pytest.raises(ValueError, match="a variant needs a name of its own, of letters, digits and _: a/b, ridge"):
        rows_of(["ridge"], ["clean"], ["ridge", "deep", "a/b"])
    with pytest.raises(ValueError, match="other settings"):
        study.main(**{**arguments, "bridge_steps": 6})


def test_other_captions_are_another_study(results, arguments, tmp_path):
    lines = arguments["captions"].read_text().splitlines()
    (tmp_path / "text.txt").write_text("\n".join(["another caption", *lines[1:]]))
    with pytest.raises(ValueError, match=r"with other settings .*text "):
        study.main(**{**arguments, "captions": tmp_path / "text.txt"})


def test_a_folder_of_somebody_else_is_refused(arguments, tmp_path):
    (tmp_path / "study.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds study.json, which is not of such a run"):
        study.main(**{**arguments, "out": tmp_path})
    assert (tmp_path / "study.json").read_text() == "mine"
