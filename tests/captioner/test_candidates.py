"""Candidates of a captioner around a tiny LLaMA, and the choice among them."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.captioner.candidates import SOURCES, Candidates, make_candidates, marginal_captions
from dlink_adapter.captioner.choice import agreement, choose_best
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.integrations.causal_lm import new_captioner


@pytest.fixture
def captioner(llama, link):
    torch.manual_seed(0)
    config = CaptionerConfig(str(llama), hidden=32, prefix_tokens=3, max_caption_tokens=8, tuning="frozen")
    return new_captioner(link, config).eval()


@pytest.fixture
def x():
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def encode_text(captions):
    """As a text tower: equal captions have equal embeddings."""
    seeds = [sum(map(ord, caption)) for caption in captions]
    return normalize(torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]))


@pytest.mark.parametrize("source", SOURCES)
def test_candidates_do_not_depend_on_the_batch(captioner, x, source):
    made = [make_candidates(captioner, x, 3, source=source, batch_size=size) for size in (3, 7, 64)]
    assert [len(captions) for captions in made[0].captions] == [3] * 5
    assert made[0].captions == made[1].captions == made[2].captions
    torch.testing.assert_close(made[0].log_likelihood, made[2].log_likelihood)
    assert made[0].captions != make_candidates(captioner, x.flip(0), 3, source=source).captions


@pytest.mark.parametrize("source", ["sampling", "draws", "draws_and_sampling"])
def test_the_seed_decides_and_the_global_one_is_left_alone(captioner, x, source):
    state = torch.get_rng_state()
    same = [make_candidates(captioner, x, 4, source=source, seed=seed).captions for seed in (0, 0, 1)]
    assert same[0] == same[1] != same[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_one_beam_is_the_caption(captioner, x):
    assert make_candidates(captioner, x, 1).captions == [[caption] for caption in captioner.generate(x)]


def test_beams_are_those_of_generate(captioner, x):
    best = [captions[0] for captions in make_candidates(captioner, x, 4).captions]
    assert best == captioner.generate(x, num_beams=4)


def test_the_log_likelihood_is_that_of_the_loss(captioner, x):
    made = make_candidates(captioner, x, 2, source="draws")
    for row, captions in enumerate(made.captions):
        for column, caption in enumerate(captions):
            ids = torch.tensor(captioner.tokenize([caption]))
            loss = captioner(x[row : row + 1], torch.tensor([False]), ids, torch.ones_like(ids))["loss"]
            torch.testing.assert_close(made.log_likelihood[row, column], -loss * ids.numel(), rtol=1e-4, atol=1e-4)


def test_draws_of_a_bridge_without_noise_are_all_its_one_caption(captioner, x):
    captioner.bridge.config = captioner.bridge.config.__class__(**{**captioner.bridge.settings(), "cosine": 1.0})
    plain = captioner.generate(x)
    assert make_candidates(captioner, x, 3, source="draws").captions == [[caption] * 3 for caption in plain]
    assert marginal_captions(captioner, x, 3) == plain


def test_marginal_captions_do_not_depend_on_the_batch(captioner, x):
    assert marginal_captions(captioner, x, 4) == marginal_captions(captioner, x, 4, batch_size=4)


@pytest.mark.parametrize(("count", "source"), [(0, "beams"), (2, "luck")])
def test_what_is_no_source_is_refused(captioner, x, count, source):
    with pytest.raises(ValueError, match=source):
        make_candidates(captioner, x, count, source=source)


def test_each_choice():
    captions = [["rain falls", "rain falls on a roof", "a dog barks"]]
    said = normalize(torch.tensor([[[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]]), dim=-1)
    candidates = Candidates(captions, torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, -9.0, -5.0]]), said)
    assert [choose_best(candidates, by) for by in ("mbr", "encoder", "likelihood")] == [[1], [2], [0]]
    with pytest.raises(ValueError, match="luck"):
        choose_best(candidates, "luck")


def test_without_a_text_tower_captions_agree_by_their_words():
    captions = [["rain falls on a roof", "rain falls", "a dog barks", "rain falls on a tin roof"]]
    candidates = Candidates(captions, torch.zeros(1, 2), torch.zeros(1, 4))
    assert choose_best(candidates, "mbr") == [0]
    assert agreement(candidates).shape == (1, 4)
    with pytest.raises(ValueError, match="choose by mbr"):
        choose_best(candidates, "encoder")


def test_a_caption_without_a_word_is_the_last_to_be_chosen(captioner, x):
    def said(captions):
        assert all(captions)
        return encode_text(captions)

    class Silent(type(captioner)):
        def generate(self, rows, **options):
            return [["", "a dog"]] * len(rows)

    captioner.__class__ = Silent
    made = make_candidates(captioner, x, 2, encode_text=said)
    assert not made.embedding[:, 0].any() and made.match[:, 0].tolist() == [0] * 5
