"""A folder of another kind is refused by what it is."""

import json

import pytest
import torch

from dlink_adapter import Captioner, PairedEmbeddings, load_bridge
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.folders import is_path
from dlink_adapter.integrations.causal_lm import new_captioner


@pytest.fixture
def folders(llama, link, tmp_path):
    new_captioner(link, CaptionerConfig(str(llama), hidden=32, tuning="frozen")).save_pretrained(tmp_path / "captioner")
    link.save_pretrained(tmp_path / "bridge")
    PairedEmbeddings.write(tmp_path / "pairs", torch.ones(1, 2), torch.ones(1, 2), [["rain"]])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return tmp_path


OPENED_BY = {"captioner": Captioner.from_pretrained, "bridge": load_bridge, "pairs": PairedEmbeddings.open}
IS = {
    "captioner": "it is a captioner, which Captioner.from_pretrained loads",
    "bridge": "it is a bridge, which load_bridge loads",
    "pairs": r"it is a folder of paired embeddings, which PairedEmbeddings\.open opens",
}


@pytest.mark.parametrize("kind", IS)
def test_a_folder_says_what_it_is(folders, kind):
    for other, opens in OPENED_BY.items():
        if other != kind:
            with pytest.raises(FileNotFoundError, match=f"{kind} holds no .*json: {IS[kind]}"):
                opens(folders / kind)


def test_a_folder_of_another_library(folders):
    with pytest.raises(FileNotFoundError, match=r"holds no captioner\.json: it is not a saved captioner"):
        Captioner.from_pretrained(folders / "model")
    with pytest.raises(ValueError, match=r"config\.json is not the config of a bridge"):
        load_bridge(folders / "model")


@pytest.mark.parametrize("text", ["{", "null", "[]", "\xff"])
def test_a_damaged_file_is_named(folders, text):
    for kind, name in (("captioner", "captioner.json"), ("bridge", "config.json"), ("pairs", "header.json")):
        (folders / kind / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{kind}/{name} is damaged"):
            OPENED_BY[kind](folders / kind)


@pytest.mark.parametrize(
    ("name", "expected"), [("./a", True), ("../a/b", True), ("/a", True), ("a", False), ("a/b.c", False)]
)
def test_paths_and_ids(name, expected):
    assert is_path(name) == expected


def test_what_a_newer_version_saved(folders):
    """Only where it cannot be loaded: another version alone is no reason."""
    for kind, name, settings in (("captioner", "captioner.json", None), ("bridge", "config.json", "config")):
        path = folders / kind / name
        values = json.loads(path.read_text())
        assert values["version"]
        path.write_text(json.dumps({**values, "version": "99.1"}))
        OPENED_BY[kind](folders / kind)
        (values[settings] if settings else values)["spin"] = 1
        for version, advice in (
            ("99.1", r"\(saved by a newer version of dlink-adapter, 99\.1: upgrade\)$"),
            ("0.0.1", "$"),
        ):
            path.write_text(json.dumps({**values, "version": version}))
            with pytest.raises(ValueError, match=rf"{name}: unknown \w+ key spin; known: [\w, ]+{advice}"):
                OPENED_BY[kind](folders / kind)
