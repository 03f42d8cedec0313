"""`dlink evaluate`, as it is run: references of every kind, scores, intervals, and two systems side by side."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dlink_adapter import PairedEmbeddings
from dlink_adapter.cli import main as dlink
from dlink_adapter.recipes import evaluate

SAID = ["a dog barks", "rain falls on a roof", "a bell rings twice", "a man speaks", "an engine idles"]
REFERENCES = [[caption + " nearby", "there is " + caption] for caption in SAID]
QUICK = {"metrics": ["bleu_4", "rouge_l", "cider_d", "spice", "spider"], "tokenizer": "plain", "resamples": 200}


def said(path, captions, name="audio/{}.wav"):
    lines = ({"clip": name.format(clip), "caption": caption} for clip, caption in enumerate(captions))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "references.csv"
    rows = (f"{clip}.wav,{caption}\n" for clip, group in enumerate(REFERENCES) for caption in group)
    path.write_text("path,caption\n" + "".join(rows))
    return path


def run(capsys, predictions, references, **options):
    evaluate.main(predictions, references=references, json=True, **{**QUICK, **options})
    return json.loads(capsys.readouterr().out)


def test_references_of_every_kind_give_the_same(tmp_path, table, capsys):
    five = [[*group, *group, group[0]] for group in REFERENCES]
    clotho = tmp_path / "clotho.csv"
    head = ["file_name", *(f"caption_{n}" for n in range(1, 6))]
    clotho.write_text("\n".join(",".join(row) for row in [head, *([f"{c}.wav", *g] for c, g in enumerate(five))]))
    audiocaps = tmp_path / "audiocaps.csv"
    rows = (f"7,{clip},30,{caption}\n" for clip, group in enumerate(five) for caption in group)
    audiocaps.write_text("audiocap_id,youtube_id,start_time,caption\n" + "".join(rows))
    draw = torch.Generator().manual_seed(0)
    audio, text = torch.randn(5, 8, generator=draw), torch.randn(25, 8, generator=draw)
    PairedEmbeddings.write(tmp_path / "pairs", audio, text, five, ids=[f"{clip}.wav" for clip in range(5)])
    predictions = said(tmp_path / "said.jsonl", SAID)
    found = [run(capsys, predictions, source) for source in (clotho, audiocaps, tmp_path / "pairs")]
    assert found[0] == found[1] == found[2] and found[0]["captions_a_clip"] == 5
    assert run(capsys, predictions, table)["captions_a_clip"] == 2


def test_the_folder_holds_scores_and_clips(tmp_path, table, capsys):
    predictions = said(tmp_path / "said.jsonl", [*SAID[:4], "nothing"])
    results = run(capsys, predictions, table, out=tmp_path / "out")
    assert json.loads((tmp_path / "out/scores.json").read_text()) == results
    assert results["scores"]["spider"] is None and "spice" in results["not_run"]["spider"]
    for name, (low, high) in results["intervals"].items():
        assert low < results["scores"][name] < high
    clips = [json.loads(line) for line in (tmp_path / "out/clips.jsonl").read_text().splitlines()]
    assert [clip["caption"] for clip in clips] == [*SAID[:4], "nothing"] and clips[1]["references"] == REFERENCES[1]
    mean = sum(clip["scores"]["cider_d"] for clip in clips) / 5
    assert mean == pytest.approx(results["scores"]["cider_d"]) and clips[4]["scores"]["cider_d"] == 0
    assert results == run(capsys, predictions, table) != run(capsys, predictions, table, seed=1)


def test_a_single_metric(tmp_path, table, capsys):
    predictions = said(tmp_path / "said.jsonl", SAID)
    assert list(run(capsys, predictions, table, metrics="cider_d")["scores"]) == ["cider_d"]
    assert dlink(["evaluate", str(predictions), "--references", str(table), "--json", "--metrics", "cider_d"]) == 0
    assert list(json.loads(capsys.readouterr().out)["scores"]) == ["cider_d"]


def test_a_folder_of_somebody_else_is_refused_and_own_scores_are_replaced(tmp_path, table, capsys):
    predictions, out = said(tmp_path / "said.jsonl", SAID), tmp_path / "out"
    out.mkdir()
    (out / "clips.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out holds clips.jsonl, which is not of such a run"):
        run(capsys, predictions, table, out=out)
    assert (out / "clips.jsonl").read_text() == "mine"
    (out / "clips.jsonl").unlink()
    run(capsys, predictions, table, out=out)
    results = run(capsys, predictions, table, out=out, seed=1)
    assert json.loads((out / "scores.json").read_text()) == results


def test_against_others_on_the_clips_that_both_have(tmp_path, table, capsys):
    good = said(tmp_path / "good.jsonl", [*SAID, "of no clip"])
    bad = said(tmp_path / "bad.jsonl", ["nothing", *SAID[1:4]])
    results = run(capsys, good, table, against=bad, out=tmp_path / "out")
    assert results["clips"] == {
        **{"scored": 4, "with_references": 5, "without_prediction": 0},
        **{"predictions_without_references": 1, "only_in_one": 1},
    }
    assert results["against"]["clips"]["without_prediction"] == 1
    found = results["against"]["differences"]["rouge_l"]
    assert found["difference"] == pytest.approx(results["scores"]["rouge_l"] - results["against"]["scores"]["rouge_l"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1] and found["p"] == 1  # one clip differs
    first = json.loads((tmp_path / "out/clips.jsonl").read_text().splitlines()[0])
    assert first["against"]["caption"] == "nothing" and first["against"]["scores"]["rouge_l"] == 0
    evaluate.main(good, references=table, against=bad, **QUICK)
    printed = capsys.readouterr().out
    assert "4 scored of 5 with references; 1 without one in the other file; 1 predictions without" in printed
    assert "SPIDEr          -  not run: needs spice" in printed and "tokenizer      plain" in printed
    other = said(tmp_path / "other.jsonl", SAID[:1], name="4.wav")
    with pytest.raises(ValueError, match="have no clip with references in common"):
        evaluate.main(bad, references=table, against=other, **QUICK)


def test_as_a_command_without_java(tmp_path, table):
    predictions = said(tmp_path / "said.jsonl", SAID)
    command = [
        sys.executable,
        "-m",
        "dlink_adapter",
        "evaluate",
        str(predictions),
        "--references",
        str(table),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    results = json.loads(done.stdout)
    assert done.returncode == 0 and results["tokenizer"] == "plain" and results["scores"]["cider_d"] > 0
    assert (
        set(results["not_run"]) == {"meteor", "spice", "spider", "fense", "fer", "spider_fl"}
        and "Java" in results["not_run"]["meteor"]
    )


def test_imports_on_windows_which_has_no_fcntl():
    code = "import sys; sys.modules['fcntl'] = None; import dlink_adapter.recipes.evaluate"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_candidates_and_confidences(tmp_path, capsys):
    table = tmp_path / "references.csv"
    rows = [
        f"{clip}.wav,{words}\n" for clip, said in enumerate(SAID) for words in (said, said.replace("a ", "the ", 1))
    ]
    table.write_text("path,caption\n" + "".join(rows))
    lines = [
        {"clip": f"{clip}.wav", "caption": caption, "candidates": ["no", caption, "more"], "confidence": confidence}
        for clip, (caption, confidence) in enumerate(
            zip([*SAID[:3], *SAID[:2]], (0.9, 0.8, 0.7, 0.2, 0.1), strict=True)
        )
    ]
    lines[0]["candidates"] = ["no", SAID[0]]
    path = tmp_path / "said.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run(capsys, path, table, model="small", out=tmp_path / "out")
    assert found["best_of"]["k"] == 2 and found["best_of"]["spider"] is None
    assert found["best_of"]["cider_d"] == pytest.approx(found["scores"]["cider_d"])
    assert found["confidence"]["auroc"] == 1 and (tmp_path / "out/reliability.png").is_file()
    evaluate.main(path, references=table, model="small", **QUICK)
    assert "best of 2 candidates: CIDEr-D" in (text := capsys.readouterr().out) and "AUROC 1.000" in text
    with pytest.raises(ValueError, match="5 predictions have no confidence"):
        evaluate.main(said(path, SAID), references=table, model="small", **QUICK)


@pytest.mark.parametrize(
    "wrong", [{"candidates": "rain"}, {"candidates": [1]}, {"candidates": 5}, {"confidence": "high"}]
)
def test_what_is_no_candidate_or_confidence(tmp_path, table, wrong):
    path = tmp_path / "said.jsonl"
    path.write_text(json.dumps({"clip": "0.wav", "caption": "rain", **wrong}))
    with pytest.raises(ValueError, match=r"said\.jsonl, line 1"):
        evaluate.main(path, references=table, **QUICK)
