"""`dlink calibrate` on the captioner of the demo."""

import shutil

import pytest

from dlink_adapter import Captioner, PairedEmbeddings
from dlink_adapter.recipes import calibrate


def test_a_confidence_is_added_to_the_folder_and_nothing_else_changes(demo_folder, tmp_path, capsys):
    shutil.copytree(
        demo_folder, tmp_path / "demo", ignore=shutil.ignore_patterns("confidence.safetensors", "captioners")
    )
    before = {file.name: file.read_bytes() for file in (tmp_path / "demo").iterdir() if file.is_file()}
    calibrate.main(tmp_path / "demo", val=demo_folder / "embeddings" / "val", candidates=2)
    assert "captions of" in capsys.readouterr().out
    after = {file.name: file.read_bytes() for file in (tmp_path / "demo").iterdir() if file.is_file()}
    assert after.keys() - before.keys() == {"confidence.safetensors"} and before.items() <= after.items()
    assert Captioner.from_pretrained(tmp_path / "demo").confidence is not None


def test_pairs_of_another_encoder_are_refused(demo_folder, tmp_path):
    pairs = PairedEmbeddings.open(demo_folder / "embeddings" / "val").select([0, 1])
    pairs.metadata["fingerprint"] = "another"
    pairs.save(tmp_path / "pairs")
    with pytest.raises(ValueError, match="these embeddings come from another"):
        calibrate.main(demo_folder, val=tmp_path / "pairs")
