"""Where a captioner finds its base model and its encoder when its folder was moved."""

import json
import shutil

import pytest

from dlink_adapter.captioner.config import CaptionerConfig, read_captioner_config
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner


@pytest.fixture
def saved(llama, link, tmp_path):
    """A captioner whose base model is elsewhere, in `models/llama`."""
    shutil.copytree(llama, tmp_path / "models" / "llama")
    config = CaptionerConfig(str(tmp_path / "models" / "llama"), hidden=32, tuning="frozen", encoder="clap")
    new_captioner(link, config).save_pretrained(tmp_path / "home" / "captioner")
    return tmp_path / "home" / "captioner"


@pytest.mark.parametrize("place", ["new/captioner/llama", "new/llama"])
def test_inside_the_folder_or_beside_it(saved, llama, tmp_path, place):
    assert json.loads((saved / "captioner.json").read_text())["base_model"] == "../../models/llama"
    shutil.copytree(saved, tmp_path / "new" / "captioner")
    shutil.copytree(llama, tmp_path / place)
    shutil.rmtree(tmp_path / "models")
    loaded = load_captioner(tmp_path / "new" / "captioner")
    assert loaded.settings.base_model == str(tmp_path / place)
    loaded.save_pretrained(tmp_path / "new" / "again")
    assert json.loads((tmp_path / "new" / "again" / "captioner.json").read_text())["base_model"].startswith("../")


def test_a_missing_base_model_is_named(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "far" / "away" / "copy")
    looked = rf"{tmp_path}/far/models/llama, {copy}/llama, {tmp_path}/far/away/llama"
    with pytest.raises(FileNotFoundError, match=rf"base model \.\./\.\./models/llama is missing, looked for {looked}"):
        load_captioner(copy)


def test_inside_is_a_path_too(saved, llama, tmp_path):
    shutil.copytree(llama, saved / "llama")
    loaded = load_captioner(saved)
    loaded.settings = CaptionerConfig(str(saved / "llama"), hidden=32, tuning="frozen")
    loaded.save_pretrained(saved)
    assert json.loads((saved / "captioner.json").read_text())["base_model"] == "./llama"
    saved.rename(tmp_path / "elsewhere")
    assert load_captioner(tmp_path / "elsewhere").settings.base_model == str(tmp_path / "elsewhere" / "llama")


def test_a_missing_encoder_matters_when_it_is_used(saved):
    path = saved / "captioner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder_path": "../clap"}))
    config = read_captioner_config(saved)
    assert config.encoder_path == str(saved.parent / "clap")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*home/clap"):
        load_captioner(saved).caption(["a.wav"])
