"""Logits processors against what they stand for, and inside `generate` of a tiny LLaMA."""

import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList

from dlink_adapter.captioner.decoding import Marginal, RowSampling


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_marginal_is_the_mean_of_the_probabilities():
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    merged = Marginal(3)(torch.zeros(6, 1), scores).exp()
    mean = scores.softmax(-1).view(2, 3, 5).mean(1)
    torch.testing.assert_close(merged.view(2, 3, 5), mean.unsqueeze(1).expand(2, 3, 5))


def test_marginal_of_equal_rows_decodes_as_one_row(llama):
    llm = AutoModelForCausalLM.from_pretrained(llama)
    prompt = torch.randint(5, 30, (2, 4), generator=torch.Generator().manual_seed(0))
    alone = llm.generate(prompt, max_new_tokens=6, do_sample=False)
    merge = LogitsProcessorList([Marginal(3)])
    together = llm.generate(prompt.repeat_interleave(3, 0), max_new_tokens=6, do_sample=False, logits_processor=merge)
    assert together[::3].tolist() == together[2::3].tolist() == alone.tolist()


def test_rows_are_sampled_as_often_as_they_are_likely():
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    sampling = RowSampling(seeded(*range(4000)))
    drawn = sampling(torch.zeros(4000, 1), probabilities.log().expand(4000, 3)).argmax(-1)
    frequencies = torch.bincount(drawn, minlength=3) / 4000
    assert (frequencies - probabilities).abs().max() < 0.03  # four standard errors


def test_a_row_is_sampled_alike_in_any_batch():
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    together = RowSampling(seeded(1, 2, 3, 4))(torch.zeros(4, 1), scores)
    alone = RowSampling(seeded(3))(torch.zeros(1, 1), scores[2:3])
    assert torch.equal(together[2:3], alone)
