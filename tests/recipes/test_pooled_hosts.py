"""The five small hosts: their projectors are found, what enters there counts, and a bridge there helps."""

import pytest
import torch
from torch.nn.functional import normalize

pytest.importorskip("transformers")

from dlink_adapter import attach, detach, disabled, new_bridge
from dlink_adapter.attachment.hosts import HOSTS
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.recipes.pooled_hosts import MODELS, Data, main, trained


@pytest.fixture(scope="module")
def data(captions: list[str]) -> Data:
    """Captions with random embeddings, and sounds that lie a constant away from them."""
    text = normalize(torch.randn(len(captions), 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    audio = normalize(text + normalize(torch.ones(32), dim=0), dim=-1)
    return Data(audio, text, text, captions, audio, text, captions)


@pytest.fixture(scope="module")
def tokenizer():
    return ClapEncoder.from_pretrained("small").tokenizer


def test_they_are_the_pooled_hosts():
    assert {model.__name__ for model in MODELS.values()} == {name for name in HOSTS if HOSTS[name].kind == "pooled"}


@pytest.fixture(scope="module")
def link(data):
    link = new_bridge("mean_shift", 32)
    link.fit((data.audio, data.text), progress=False)
    return link.eval()


@torch.no_grad()
def losses(host, data):
    return host(data.audio, data.captions), host(data.text, data.captions)


@pytest.mark.parametrize("name", MODELS)
def test_the_projector_reads_one_bridged_embedding_and_the_answer_depends_on_it(name, data, link, tokenizer):
    host, seen = attach(trained(name, tokenizer, data, steps=2, seed=0), link), []
    projector = host.get_submodule(HOSTS[type(host).__name__].target).host_layer
    projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    bridged, _ = losses(host, data)
    with disabled(host):
        plain, of_captions = losses(host, data)
    for x, read in zip((link(data.audio), link(data.text), data.audio, data.text), seen, strict=True):
        assert torch.equal(x, read)
    assert len({bridged.item(), plain.item(), of_captions.item()}) == 3
    assert all(isinstance(said, str) for said in host.answer(data.audio[:2]))
    assert detach(host) is link


def test_a_bridge_makes_true_captions_of_sound_more_likely(data, link, tokenizer):
    host = attach(trained("ClipCap", tokenizer, data, steps=25, seed=0), link)
    bridged, _ = losses(host, data)
    with disabled(host):
        plain, of_captions = losses(host, data)
    detach(host)
    assert bridged - of_captions < (plain - of_captions) / 2


def test_the_example_prints_a_row_for_each_host(capsys):
    main(bridge="mean_shift", hosts=["DRCap"], scenes=32, steps=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("without the bridge") and "paired cosine" in lines[1]
    assert lines[-1].startswith("DRCap") and len(lines[-1].split()) == 7
    with pytest.raises(ValueError, match="unknown host LLaVA; known: CLAP-Cap, ClipCap"):
        main(hosts=["LLaVA"])
