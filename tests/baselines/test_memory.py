"""Projection onto the training captions against the whole softmax in one tensor."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines import memory
from dlink_adapter.baselines.memory import TEMPERATURES, Memory, project
from dlink_adapter.data.embeddings import PairedEmbeddings


def fitted(audio, text, clip=None):
    bridge = Memory(Memory.config_class(audio.shape[1]))
    bridge.learn(PairedEmbeddings.from_tensors(audio, text, clip=clip), None)
    return bridge


@pytest.mark.parametrize("temperature", [0.002, 0.01, 1.0])
def test_blocks_give_the_softmax_over_the_whole_bank(temperature, monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_ROWS", 7)
    draw = torch.Generator().manual_seed(0)
    x, bank = (normalize(torch.randn(n, 16, generator=draw), dim=-1) for n in (5, 100))
    temperature = torch.tensor(temperature)
    torch.testing.assert_close(project(x, bank, temperature), (x @ bank.T / temperature).softmax(-1) @ bank)


def test_hidden_rows_are_as_if_they_were_not_there(monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_ROWS", 4)
    draw = torch.Generator().manual_seed(0)
    x, bank = (normalize(torch.randn(n, 8, generator=draw), dim=-1) for n in (2, 20))
    hidden, temperature = torch.tensor([[0, 5], [17, 20]]), torch.tensor(0.05)
    expected = torch.cat([project(x[:1], bank[5:], temperature), project(x[1:], bank[:17], temperature)])
    torch.testing.assert_close(project(x, bank, temperature, hidden), expected)


def test_blocks_of_queries_do_not_change_the_result(pairs, monkeypatch):
    bridge = fitted(*pairs)
    whole = bridge(pairs[0])
    monkeypatch.setattr(memory, "BLOCK_QUERIES", 7)
    torch.testing.assert_close(bridge(pairs[0]), whole)


def test_the_temperature_is_the_best_when_each_clip_is_left_out(pairs):
    audio, text = (normalize(rows[:120], dim=-1) for rows in pairs)
    clip = torch.arange(60).repeat_interleave(2)
    audio = audio[:60]

    def closeness(temperature):
        total = 0.0
        for out in range(60):
            rest = text[clip != out]
            projected = (audio[out] @ rest.T / temperature).softmax(-1) @ rest
            total += (normalize(projected, dim=-1) @ text[2 * out]).item()
        return total

    assert fitted(audio, text, clip).metadata["temperature"] == max(TEMPERATURES, key=closeness)


def test_a_small_temperature_recalls_the_nearest_caption():
    draw = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(50, 32, generator=draw), dim=-1)
    bridge = fitted(text, text)
    bridge.temperature.fill_(1e-3)
    torch.testing.assert_close(bridge(text + 0.02 * torch.randn(50, 32, generator=draw)), text)


def test_one_clip_is_nothing_to_choose_on():
    with pytest.raises(ValueError, match="of one clip"):
        fitted(torch.ones(1, 8), torch.randn(3, 8), torch.zeros(3, dtype=torch.long))
