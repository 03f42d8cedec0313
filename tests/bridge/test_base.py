"""Saving and loading bridges of every kind, and what is refused."""

import json
import math
import random
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from dlink_adapter.baselines.diffusion_bridge import PACKAGE
from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.registry import BRIDGES, load_bridge, new_bridge
from dlink_adapter.training.config import FitConfig

SETTINGS = {"diffusion_bridge": {"width": 8}, "moment_matched": {"base": "ridge"}}


@pytest.fixture(params=BRIDGES)
def bridge(request, make_link) -> Bridge:
    if request.param == "diffusion_link":
        bridge = make_link()
    else:
        if request.param == "diffusion_bridge" and not (find_spec(PACKAGE) and find_spec("ema_pytorch")):
            pytest.skip('needs the extra "bench"')
        bridge = new_bridge(request.param, 16, SETTINGS.get(request.param))
        draw = torch.Generator().manual_seed(0)
        text = torch.randn(40, 16, generator=draw)
        audio = text + torch.randn(40, 16, generator=draw) + 1
        bridge.fit((audio, text), config=FitConfig(steps=1), progress=False)
    bridge.metadata["fingerprint"] = "clap-1"
    return bridge.eval()


@pytest.mark.parametrize("name", BRIDGES)
def test_the_name_in_the_registry_is_that_of_the_class(name):
    assert BRIDGES[name].name == name


def test_every_bit_comes_back(bridge, tmp_path):
    bridge.save_pretrained(tmp_path / "new" / "folder")
    x = torch.randn(5, 16)
    for loaded in (type(bridge).from_pretrained(tmp_path / "new" / "folder"), load_bridge(tmp_path / "new" / "folder")):
        assert type(loaded) is type(bridge) and not loaded.training
        assert loaded.settings() == bridge.settings() and loaded.metadata == bridge.metadata
        for modality in ("audio", "text"):
            assert torch.equal(loaded(x, modality=modality), bridge(x, modality=modality))


def test_saving_again_gives_the_same_files(bridge, tmp_path):
    bridge.save_pretrained(tmp_path / "one")
    load_bridge(tmp_path / "one").save_pretrained(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_bridge_on_its_encoder_alone(bridge):
    bridge.check_encoder("clap-1")
    with pytest.raises(ValueError, match=r"fitted on the encoder clap-1, these embeddings come from clap-2"):
        bridge.check_encoder("clap-2")
    bridge.metadata.pop("fingerprint")
    bridge.check_encoder("clap-2")  # fitted on tensors: nobody knows


def test_bridges_refuse_alike(bridge):
    for bad, message in (
        (torch.ones(3, 8), "expected floating-point embeddings"),
        (torch.zeros(3, 16), r"embedding \(0,\) of \(3, 16\) is zero"),
        (torch.full((3, 16), torch.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            bridge(bad)
    with pytest.raises(TypeError, match=r"expected a tensor \(..., 16\), got ndarray: torch.as_tensor makes one"):
        bridge(np.ones((3, 16)))
    with pytest.raises(ValueError, match="modality is 'image'"):
        bridge(torch.ones(3, 16), modality="image")


def test_bridges_take_the_same_inputs(bridge):
    for shape in ((16,), (0, 16), (2, 3, 16)):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            x = torch.randn(shape).to(dtype)
            before = x.clone()
            out = bridge(x)
            assert out.shape == shape and out.dtype == dtype and torch.equal(x, before)
            assert out.float().norm(dim=-1).allclose(torch.ones(shape[:-1]), atol=1e-2)


@pytest.mark.parametrize("norm", [1e-30, 1e-20, 1e-13, 1e-8, 1e8, 1e20, 1e30])
def test_the_norm_of_an_embedding_does_not_matter(bridge, norm):
    x = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    for modality in ("audio", "text"):
        torch.testing.assert_close(bridge(norm * x, modality=modality), bridge(x, modality=modality), rtol=0, atol=1e-4)


def test_any_bit_of_the_weights_that_flips_is_seen(bridge, tmp_path):
    bridge.save_pretrained(tmp_path)
    weights, draw = tmp_path / "model.safetensors", random.Random(0)
    whole = weights.read_bytes()
    for _ in range(4):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        weights.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged, or does not fit the config: its SHA-256"):
            load_bridge(tmp_path)


def test_nan_weights_are_refused(bridge, tmp_path):
    name, tensor = next((name, x) for name, x in reversed(bridge.state_dict().items()) if x.numel() > 1)
    tensor.view(-1)[0] = torch.nan
    if not bridge.is_fitted:
        pytest.skip("one NaN there, and it counts as unfitted")
    bridge.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"model\.safetensors has NaN or Inf in {name}"):
        load_bridge(tmp_path)


def test_an_unfitted_bridge_can_be_saved(tmp_path):
    new_bridge("ridge", 4).save_pretrained(tmp_path)
    assert not load_bridge(tmp_path).is_fitted


def test_a_bridge_of_an_earlier_version_has_no_checksum(link, tmp_path):
    link.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: values[name] for name in ("bridge", "version", "config", "metadata")}))
    assert torch.equal(load_bridge(tmp_path)(torch.ones(2, 16)), link(torch.ones(2, 16)))


@pytest.mark.parametrize("metadata", [None, {}, {"fingerprint": "clap-2"}])
def test_the_encoder_is_checked_also_where_the_metadata_were_lost(bridge, tmp_path, metadata):
    bridge.save_pretrained(tmp_path)
    change_config(tmp_path, metadata=metadata)
    with pytest.raises(
        ValueError, match=r"config\.json(: the bridge was fitted on the encoder clap-1| is damaged: metadata)"
    ):
        load_bridge(tmp_path)


def test_loading_leaves_the_random_state_alone(bridge, tmp_path):
    bridge.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    load_bridge(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_loaded_weights_are_no_longer_those_of_the_file(link, tmp_path):
    link.save_pretrained(tmp_path)
    loaded, weights = load_bridge(tmp_path), tmp_path / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    assert torch.equal(loaded(torch.ones(2, 16)), link(torch.ones(2, 16)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("name", "value"),
    [("dim", 10**9), ("samples", 2 * 10**7), ("timesteps", 10**8), ("blocks", 10**6), ("mlp_ratio", 1e30),
     ("mlp_ratio", math.inf), ("dim", 32), ("samples", 10**6)],
)  # fmt: skip
def test_settings_that_take_much_memory_are_refused_before_they_do(link, tmp_path, name, value):
    link.save_pretrained(tmp_path)
    change_config(tmp_path, config={**vars(link.config), name: value})
    with pytest.raises(ValueError, match=r"config\.json: |model\.safetensors is damaged, or does not fit the config"):
        load_bridge(tmp_path)


def test_another_kind_of_bridge(link, tmp_path):
    link.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a 'diffusion_link' bridge, not 'mean_shift': use load_bridge"):
        MeanShift.from_pretrained(tmp_path)


def test_an_unknown_kind_of_bridge(link, tmp_path):
    link.save_pretrained(tmp_path)
    change_config(tmp_path, bridge="teleport")
    with pytest.raises(ValueError, match="unknown bridge 'teleport'; known: raw, mean_shift"):
        load_bridge(tmp_path)


def test_unknown_config_key(link, tmp_path):
    link.save_pretrained(tmp_path)
    change_config(tmp_path, config={**vars(link.config), "skip": 1})
    with pytest.raises(ValueError, match="unknown BridgeConfig key skip"):
        DiffusionLink.from_pretrained(tmp_path)


def test_a_folder_without_a_bridge(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json: it is not a saved bridge"):
        load_bridge(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="which has the keys bridge and config"):
        load_bridge(tmp_path)


@pytest.mark.parametrize("text", ["{", "null", ""])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_bridge(tmp_path)


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, message in (
        (str(tmp_path / "nothing"), "there is no folder .*nothing"),
        ("nobody/nothing-at-all", "neither a folder nor a repository"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_bridge(name)


def test_damaged_weights(link, tmp_path):
    link.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:100], whole[:-10]):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged, or does not fit the config"):
            DiffusionLink.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        DiffusionLink.from_pretrained(tmp_path)


def test_weights_of_another_shape(link, tmp_path):
    link.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    missing = {name: value for name, value in tensors.items() if name != "denoiser.out.bias"}
    for wrong in (missing, {**tensors, "denoiser.out.bias": torch.ones(3)}, {**tensors, "more": torch.ones(3)}):
        save_file(wrong, weights)
        with pytest.raises(ValueError, match="does not fit the config"):
            DiffusionLink.from_pretrained(tmp_path)


def test_the_model_card_carries_the_settings_and_what_was_measured(link, tmp_path):
    link.metadata |= {"fingerprint": "clap-1", "calibration": {"cosine": 0.9, "paired_cosine": 0.8725}}
    link.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: dlink-adapter" in front and "model-index" not in front
    for name, value in vars(link.config).items():
        assert f"| {name} | {json.dumps(value)} |" in card
    assert "## calibration" in card and "| paired_cosine | 0.8725 |" in card and '| fingerprint | "clap-1" |' in card
    example = card.split("```python")[1].split("```")[0].replace('"this folder or repository"', "folder")
    names = {"folder": tmp_path, "embeddings": torch.ones(2, 16)}
    exec(example, names)
    assert names["text_like"].shape == (2, 16)


def test_the_header_of_the_card(link, tmp_path):
    hub = {"license": "mit", "datasets": ["org/sounds"], "base_model": "org/clap"}
    link.metadata |= {**hub, "gap_before_and_after": {"rmg": [0.9, 0.1], "r_at_1": [0.2, 0.3]}}
    link.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert {name: getattr(card.data, name) for name in hub} == hub and "arxiv:2510.11330" in card.data.tags
    assert card.data.pipeline_tag == "feature-extraction" and "@article{diffusion_link," in card.text
    assert {found.metric_type: found.metric_value for found in card.data.eval_results} == {"rmg": 0.1, "r_at_1": 0.3}
    assert card.data.model_name == "diffusion_link"


@pytest.mark.parametrize(("name", "rows"), [("diffusion_link", 0), ("ridge", 0), ("kernel_ridge", 36), ("memory", 36)])
def test_the_card_says_how_many_training_embeddings_are_inside(name, rows, tmp_path):
    draw = torch.Generator().manual_seed(0)
    bridge = new_bridge(name, 8)
    pairs = torch.randn(40, 8, generator=draw), torch.randn(40, 8, generator=draw)
    bridge.fit(pairs, config=FitConfig(steps=1), out=tmp_path, progress=False)
    said = f"holds {rows} embeddings of the training pairs" if rows else "holds no embedding of the training pairs"
    assert bridge.training_rows == rows and said in (tmp_path / "README.md").read_text()
    larger = [
        name
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
        if len(tensor.shape) and len(tensor) == 36
    ]
    assert bool(larger) == bool(rows)


def test_where_and_how_it_is_loaded(link, tmp_path):
    link.save_pretrained(tmp_path / "here" / "below")
    loaded = load_bridge(tmp_path / "here", subfolder="below", dtype=torch.float64, device="cpu")
    assert all(tensor.dtype == torch.float64 for tensor in loaded.state_dict().values())
    assert DiffusionLink.from_pretrained(tmp_path / "here", subfolder="below").config == link.config


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
