"""The methods of a study: all that are known are compared, and each is fitted as it says."""

import pytest

from dlink_adapter import BRIDGES, FitConfig, PairedEmbeddings
from dlink_adapter.recipes.methods import UNET, fit_method, has_unet, plain_methods


def test_every_method_but_the_part_is_compared():
    missing = set() if has_unet() else {"diffusion_bridge"}
    assert set(plain_methods()) == set(BRIDGES) - {"moment_matched"} - missing


@pytest.mark.parametrize(("name", "steps"), [("diffusion_link", 4), ("diffusion_bridge", 2)])
def test_the_unet_alone_has_a_reduced_budget(name, steps, pairs, tmp_path):
    if name == "diffusion_bridge" and not has_unet():
        pytest.skip('needs the extra "bench"')
    parts = [
        PairedEmbeddings.from_tensors(*(rows[part, :16] for rows in pairs)) for part in (slice(90), slice(90, 120))
    ]
    bridge = fit_method(name, *parts, FitConfig(steps=4), 2, tmp_path)
    assert bridge.metadata["training"]["steps"] == steps and (tmp_path / "config.json").is_file()
    assert name == "diffusion_link" or bridge.config.width == UNET["width"]
