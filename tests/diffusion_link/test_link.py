"""DiffusionLink: what must hold whatever goes in and however it is run."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from dlink_adapter.bridge.noise import mirrored_noise
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.diffusion_link.samplers import SAMPLERS
from dlink_adapter.diffusion_link.schedules import add_noise

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def x():
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(1)) + 1


@pytest.mark.parametrize("shape", [(16,), (1, 16), (0, 16), (5, 16), (2, 3, 16), (2, 0, 16), (1, 2, 1, 3, 16)])
@pytest.mark.parametrize("train", [False, True])
def test_any_leading_axes(link, shape, train):
    out = link.train(train)(torch.randn(shape))
    assert out.shape == shape
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(shape[:-1]))


def test_leading_axes_do_not_change_the_answer(link, x):
    torch.testing.assert_close(link(x.view(2, 3, 16)).view(6, 16), link(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.stack([link(row) for row in x]), link(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_comes_back_and_the_arithmetic_is_float32(link, x, dtype):
    given = x.to(dtype)
    out = link(given)
    assert out.dtype == dtype
    assert torch.equal(out, link(given.float()).to(dtype))


def test_the_input_is_neither_changed_nor_needed_contiguous(link, x):
    before = x.clone()
    wide = torch.stack([x, -x], dim=-1)[..., 0]
    assert not wide.is_contiguous()
    torch.testing.assert_close(link(wide), link(x), rtol=0, atol=1e-6)
    link(x, generator=torch.Generator())
    link.loss(x, x)
    assert torch.equal(x, before)


def test_the_length_of_an_embedding_does_not_matter(link, x):
    torch.testing.assert_close(link(100 * x), link(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"steps": 1}, {"steps": 5}, {"sampler": "ddpm", "steps": 5}, {"timestep": 0}, {"samples": 3}]
)
def test_a_seeded_generator_repeats_every_bit(make_link, x, settings):
    link = make_link(**settings)
    first, again, other = (link(x, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (settings == {"timestep": 0})


def test_eval_is_a_function(link, x):
    torch.manual_seed(0)
    first = link(x)
    torch.manual_seed(1)
    assert torch.equal(first, link(x))
    assert torch.get_rng_state().equal(torch.Generator().manual_seed(1).get_state())  # and it drew nothing


def test_train_draws_fresh_noise(make_link, x):
    link = make_link(dropout=0.0).train()
    assert not torch.equal(link(x), link(x))
    twins = link(x[:1].expand(2, 16))
    assert not torch.equal(twins[0], twins[1])


def test_many_samples_agree_with_each_other_more_than_single_ones(make_link, x):
    link = make_link(cosine=0.5)

    def spread(samples):
        runs = [link(x, generator=torch.Generator().manual_seed(seed), samples=samples) for seed in range(8)]
        return torch.stack(runs).var(0).sum().item()

    assert spread(64) < spread(1) / 4


def by_hand(link, x0):
    """A network call for each noised copy of the coordinates, their mean, decode."""
    level = link.alpha_bars[link.timestep]
    guesses = [link.denoise(add_noise(x0, level, noise), level) for noise in link.fixed_noise]
    return link.space.decode(torch.stack(guesses).mean(0))


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_audio_and_text_are_both_noised_and_denoised(link, x, modality):
    expected = by_hand(link, link.space.encode(x, modality))
    torch.testing.assert_close(link(x, modality=modality), expected, rtol=0, atol=1e-6)


def test_the_average_is_over_reconstructions(link, x):
    assert torch.equal(link(x, samples=4), link(x)) and not torch.equal(link(x, samples=2), link(x))


def test_a_caption_is_drawn_anew_with_a_generator(link, x):
    draws = [link(x, modality="text", generator=torch.Generator().manual_seed(seed), samples=1) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.allclose(draws[0], draws[2])


def test_fixed_noise_comes_in_mirrored_pairs():
    noise = mirrored_noise(7, 16)
    assert noise.shape == (7, 16) and torch.equal(noise, mirrored_noise(8, 16)[:7])
    assert torch.equal(noise[0::2][:3], -noise[1::2])
    assert mirrored_noise(2000, 16).std().item() == pytest.approx(1, abs=0.02)


def test_add_noise_keeps_unit_variance():
    x0, noise = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    for level in (1.0, 0.7, 0.1):
        assert add_noise(x0, level, noise).var().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(add_noise(x0, 1.0, noise), x0)


def test_cosine_is_the_cosine_that_is_left(make_link):
    link = make_link(dim=64, cosine=0.7)
    x0 = link.space.encode(torch.randn(4000, 64) + 1)  # as those that the space was fitted on
    level = link.alpha_bars[link.timestep]
    left = torch.cosine_similarity(add_noise(x0, level, torch.randn_like(x0)), x0, dim=-1)
    assert left.mean().item() == pytest.approx(0.7, abs=0.01)


def test_a_timestep_is_the_cosine_of_its_noise_level(make_link, x):
    given = make_link(timestep=300)
    same = make_link(cosine=given.alpha_bars[300] ** 0.5)
    assert given.timestep == same.timestep == 300 and torch.equal(given(x), same(x))


def test_depth_steps_and_sampler_may_be_replaced(make_link, x):
    link = make_link(timestep=300)
    results = [link(x)]
    for changed in ({"timestep": 301}, {"timestep": 700}, {"timestep": 700, "steps": 3}, {"timestep": 0}):
        link.config = replace(link.config, **changed)
        results.append(link(x))
    assert not any(torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_the_number_of_samples_may_be_replaced_and_comes_back(link, x, tmp_path):
    for samples in (2, 7):
        link.config = replace(link.config, samples=samples)
        expected = by_hand(link, link.space.encode(x))
        torch.testing.assert_close(link(x), expected, rtol=0, atol=1e-6)
        link.save_pretrained(tmp_path)
        assert torch.equal(DiffusionLink.from_pretrained(tmp_path)(x), link(x))


@pytest.mark.parametrize("name", ["dim", "blocks", "time_dim"])
def test_what_the_weights_are_made_for_can_not_be_replaced(link, name):
    with pytest.raises(ValueError, match=f"{name} can't be changed in a bridge that is there"):
        link.config = replace(link.config, **{name: 2})


def test_it_saves_nothing_but_its_space_its_network_and_its_noise(link):
    assert {name.split(".")[0] for name in link.state_dict()} == {"space", "denoiser", "fixed_noise"}
    assert link.training_rows == 0


def test_text_goes_through_its_own_mean(link, x):
    assert not torch.allclose(link(x, modality="text"), link(x))
    centred = link.space.encode(x, "text")
    assert not torch.allclose(centred, link.space.encode(x))


def test_autocast_stays_out(link, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found := link(x), link(x)) and found.dtype == torch.float32
    assert torch.equal(found, link(x))


def test_autocast_speeds_up_training_but_the_losses_are_float32(link, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = link.loss(x, x.flip(0), generator=torch.Generator().manual_seed(0))
    high = link.loss(x, x.flip(0), generator=torch.Generator().manual_seed(0))
    assert all(value.dtype == torch.float32 for value in low.values())
    torch.testing.assert_close(low["loss"], high["loss"], rtol=0.05, atol=0)


@pytest.mark.parametrize(("backend", "settings"), [("aot_eager", {}), ("eager", {"steps": 3})])
def test_compiles_into_one_graph(make_link, x, backend, settings):
    torch.compiler.reset()
    link = make_link(**settings)
    compiled = torch.compile(link, fullgraph=True, backend=backend)
    for given in (x, x[0], x.half()):
        torch.testing.assert_close(compiled(given), link(given))


def test_a_compiled_bridge_follows_its_config(link, x):
    torch.compiler.reset()
    compiled = torch.compile(link, fullgraph=True, backend="eager")
    before = compiled(x)
    link.config = replace(link.config, cosine=0.3)
    assert torch.allclose(compiled(x), link(x), atol=1e-6) and not torch.allclose(before, link(x), atol=1e-3)


def test_exports_with_a_dynamic_batch(link, x):
    program = torch.export.export(link, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}}).module()
    for rows in (x, x[:2], x.repeat(5, 1)):
        torch.testing.assert_close(program(rows), link(rows))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda link: pickle.loads(pickle.dumps(link))])
def test_copies_are_equal_and_apart(link, x, copied):
    twin = copied(link)
    assert torch.equal(twin(x), link(x)) and twin.config == link.config
    before = link(x)
    nn.init.zeros_(twin.denoiser.out.weight)
    assert torch.equal(link(x), before) and not torch.equal(twin(x), before)


def test_meta_device(link, x):
    with torch.device("meta"):
        new = DiffusionLink(link.config)
    assert all(tensor.is_meta for tensor in new.state_dict().values())
    assert new(torch.empty(3, 16, device="meta")).shape == (3, 16)
    new.to_empty(device="cpu").load_state_dict(link.state_dict())
    assert torch.equal(new.eval()(x), link(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_stay_close(make_link, x, dtype):
    link = make_link(steps=4)
    low = copy.deepcopy(link).to(dtype)
    for given in (x, x.to(dtype)):
        assert low(given).dtype == given.dtype
        assert torch.cosine_similarity(low(given).float(), link(x), dim=-1).min() > 0.999


def test_ddp(link, x, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(link)
        torch.testing.assert_close(wrapped(x), link(x))
        wrapped(x)[:, 0].sum().backward()
        assert all(parameter.grad is not None for parameter in link.denoiser.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_inside_a_transformers_model_the_buffers_survive(make_link, x, tmp_path):
    from transformers import PretrainedConfig, PreTrainedModel

    settings = make_link().config

    class Host(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.bridge = DiffusionLink(settings)
            self.head = nn.Linear(16, 2)
            self.post_init()

        def forward(self, x):
            return self.head(self.bridge(x))

    host = Host(PretrainedConfig()).eval()
    host.bridge.load_state_dict(make_link().state_dict())
    host.save_pretrained(tmp_path)
    loaded = Host.from_pretrained(tmp_path).eval()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in host.state_dict().items())
    assert torch.equal(loaded(x), host(x))


def test_gradients_reach_the_input_and_the_network(link, x):
    x.requires_grad_()
    link(x)[:, 0].sum().backward()
    assert x.grad.isfinite().all() and x.grad.any(dim=-1).all()
    assert all(parameter.grad.isfinite().all() for parameter in link.denoiser.parameters())


@pytest.mark.parametrize("bad", [torch.randn(3, 15), torch.randn(3, 17), torch.tensor(1.0), torch.ones(3, 16).long()])
def test_wrong_width_or_type(link, bad):
    with pytest.raises(ValueError, match=r"expected floating-point embeddings \(\.\.\., 16\), got \("):
        link(bad)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0])
def test_bad_rows_are_named(link, value):
    x = torch.ones(2, 3, 16)
    x[1, 2, slice(None) if value == 0 else 5] = value
    with pytest.raises(ValueError, match=r"embedding \(1, 2\) of \(2, 3, 16\) is zero, or has NaN or Inf"):
        link(x)
    with pytest.raises(ValueError, match=r"embedding \(5,\) of \(6, 16\)"):
        link.loss(torch.ones(6, 16), x.view(6, 16))


def test_unfitted(x):
    with pytest.raises(ValueError, match=r"DiffusionLink is not fitted: call fit"):
        DiffusionLink(BridgeConfig(dim=16, cosine=0.9))(x)


def test_no_depth(make_link, x):
    with pytest.raises(ValueError, match=r"no depth: fit calibrates it, or set BridgeConfig\(timestep= or cosine="):
        make_link(cosine=None)(x)


def test_wrong_modality(link, x):
    with pytest.raises(ValueError, match=r"modality is 'image': expected one of audio, text"):
        link(x, modality="image")


def test_samples_out_of_range(link, x):
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        link(x, samples=0)
    with pytest.raises(ValueError, match="samples = 5 is more than the 4 fixed ones: give a generator"):
        link(x, samples=5)
    assert link(x, samples=5, generator=torch.Generator()).shape == x.shape


def test_loss_wants_pairs(link, x):
    for audio, text in ((x, x[:3]), (x[:, :8], x[:, :8]), (x[None], x[None])):
        with pytest.raises(ValueError, match=r"expected pairs \(n, 16\), got audio"):
            link.loss(audio, text)


def test_the_loss_is_that_of_an_independent_computation(make_link, x):
    """Each row of audio and of text noised by hand with its own noise to its own timestep, and the three terms."""
    link, text = make_link(text_weight=0.5, topology_weight=3.0), x.flip(0)
    parts = link.loss(x, text, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(0)
    timesteps = torch.randint(1, 1001, (12, 1), generator=draw).flatten().tolist()
    noise = torch.randn(12, 16, generator=draw)
    assert len(set(timesteps)) > 6

    def coordinates(rows, mean, radius):
        return (rows / rows.norm(dim=-1, keepdim=True) - mean) * 4 / radius  # 4 = sqrt(dim)

    space = link.space
    target = coordinates(text, space.text_mean, space.text_radius)
    predicted = []
    for row, clean in enumerate([*coordinates(x, space.audio_mean, space.audio_radius), *target]):
        level = torch.tensor(link.alpha_bars[timesteps[row]])
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise[row]
        predicted.append(link.denoiser(noised, level.reshape(1)))
    from_audio, from_text = torch.stack(predicted[:6]), torch.stack(predicted[6:])
    cosines = [torch.cosine_similarity(rows[:, None], rows[None], dim=-1) for rows in (from_audio, target)]
    terms = {
        "denoise_audio": ((from_audio - target) ** 2).mean(),
        "denoise_text": ((from_text - target) ** 2).mean(),
        "topology": ((cosines[0] - cosines[1]) ** 2).mean(),
    }
    assert set(parts) == {"loss", *terms}
    for name, term in terms.items():
        torch.testing.assert_close(parts[name], term, rtol=1e-4, atol=1e-5)
    expected = terms["denoise_audio"] + 0.5 * terms["denoise_text"] + 3 * terms["topology"]
    torch.testing.assert_close(parts["loss"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_call_the_network_more_often(make_link, x, name):
    link = make_link(sampler=name, steps=7)
    calls = []
    link.denoiser.register_forward_hook(lambda *_: calls.append(1))
    link(x, generator=torch.Generator())
    assert len(calls) == 7


def test_ddpm_needs_a_generator_in_eval_mode(make_link):
    link = make_link(sampler="ddpm", steps=3)
    x = torch.randn(2, link.dim)
    with pytest.raises(ValueError, match="give a generator"):
        link(x)
    first, again = (link(x, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
