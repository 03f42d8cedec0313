"""`dlink doctor`: what it says of an installation, and which folders it finds something wrong with."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from dlink_adapter import PairedEmbeddings
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.cli import main
from dlink_adapter.integrations.causal_lm import new_captioner
from dlink_adapter.recipes import doctor_machine
from dlink_adapter.recipes.doctor import main as doctor
from dlink_adapter.recipes.doctor_machine import hub_problem, self_test, unmet


@pytest.fixture
def folders(llama, link, pairs, tmp_path):
    link.metadata["fingerprint"] = "one"
    link.save_pretrained(tmp_path / "bridge")
    new_captioner(link, CaptionerConfig(str(llama), hidden=32, tuning="frozen")).save_pretrained(tmp_path / "captioner")
    captions = [[f"sound {row}"] for row in range(60)]
    PairedEmbeddings.write(
        tmp_path / "pairs", *(side[:60] for side in pairs), captions, metadata={"fingerprint": "one"}
    )
    return tmp_path


@pytest.fixture
def problems(capsys):
    """The problems that `dlink doctor FOLDER ... --json` finds."""

    def found(*folders):
        code = doctor(*folders, json=True)
        problems = json.loads(capsys.readouterr().out)["problems"]
        assert code == bool(problems)
        return problems

    return found


def test_an_installation_in_words(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for line in (rf"torch             {torch.__version__}", "self-test         passed", "extra clap        complete"):
        assert line in out
    assert out.endswith("\n\nnothing is wrong\n")


def test_sound_folders_are_named_by_what_they_are(folders, capsys):
    assert main(["doctor", *(str(folders / name) for name in ("bridge", "captioner", "pairs"))]) == 0
    out = capsys.readouterr().out
    assert f"{folders}/bridge: a bridge, which" in out and f"{folders}/captioner: a captioner, which" in out
    assert f"{folders}/pairs: a folder of paired embeddings, which" in out


@pytest.mark.parametrize(
    "file",
    ["bridge/model.safetensors", "captioner/projector.safetensors", "captioner/bridge/model.safetensors"],
)
def test_weights_that_are_not_finite(folders, problems, file):
    weights = load_file(folders / file)
    name = min(name for name in weights if weights[name].is_floating_point())
    weights[name].view(-1)[0] = torch.nan
    save_file(weights, folders / file)
    for config in folders.glob("**/config.json"):  # without the checksum, which would be the problem
        values = json.loads(config.read_text())
        config.write_text(json.dumps({key: value for key, value in values.items() if key != "weights_sha256"}))
    (folders / "captioner" / "captioner.json").write_text(
        json.dumps({"base_model": json.loads((folders / "captioner" / "captioner.json").read_text())["base_model"]})
    )  # without the digest of the bridge, which would be the problem
    (found,) = problems(folders / file.partition("/")[0])
    assert found.startswith(f"{folders / file.partition('/')[0]}: {folders / file} has NaN or Inf in {name}")


def test_damaged_weights(folders, problems):
    for file in ("bridge/model.safetensors", "captioner/projector.safetensors"):
        (folders / file).write_bytes(b"damaged")
        (found,) = problems(folders / file.partition("/")[0])
        assert f"{folders / file} is damaged" in found


def test_pairs_that_are_collapsed_or_of_another_encoder(folders, problems):
    audio = torch.ones(60, 8) + 1e-4 * torch.randn(60, 8)
    captions = [[f"sound {row}"] for row in range(60)]
    PairedEmbeddings.write(folders / "other", audio, torch.randn(60, 8), captions, metadata={"fingerprint": "two"})
    collapsed, mixed = problems(folders / "bridge", folders / "other", folders / "pairs")
    assert "other: the audio embeddings have collapsed" in collapsed
    assert mixed == (
        f"the folders are of different encoders: {folders}/bridge, {folders}/pairs of one; {folders}/other of two"
    )


def test_folders_that_are_not_ours(tmp_path, problems):
    (tmp_path / "header.json").write_text("{")
    assert problems(tmp_path / "nowhere") == [f"{tmp_path / 'nowhere'}: there is no such folder"]
    assert "header.json is damaged" in problems(tmp_path)[0]
    (tmp_path / "header.json").unlink()
    assert "it holds none of captioner.json, bridge_targets.json, header.json, config.json" in problems(tmp_path)[0]


def test_extras_are_read_from_the_package(monkeypatch):
    assert unmet(None) == unmet("demo") == []
    declared = ["torch>=2", 'absent>=1; extra == "a"', 'dlink-adapter[a]; extra == "b"', 'torch>=999; extra == "b"']
    monkeypatch.setattr(doctor_machine, "requires", lambda name: declared)
    assert unmet(None) == [] and unmet("a") == ["absent>=1"] and unmet("b") == ["absent>=1", "torch>=999"]


class Refuses(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(401)

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_at_its_address(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.handle_request)
        thread.start()
        assert hub_problem() == []
        thread.join()
    (problem,) = hub_problem()
    assert problem.startswith(f"the hub at {constants.ENDPOINT} cannot be reached: ")


def test_a_self_test_that_fails_is_a_problem(monkeypatch):
    def other(folder):
        bridge = load(folder)
        bridge.space.text_mean += 1
        return bridge

    load = doctor_machine.load_bridge
    monkeypatch.setattr(doctor_machine, "load_bridge", other)
    assert self_test() == ["a small bridge gives other embeddings after it is saved and loaded"]
    monkeypatch.setattr(doctor_machine, "load_bridge", lambda folder: load(f"{folder}/nowhere"))
    assert "cannot be fitted, saved and loaded: FileNotFoundError: " in self_test()[0]
