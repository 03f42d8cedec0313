"""The captioner around a real, tiny LLaMA: its loss by hand, its captions, and that all of it comes back from disk."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from dlink_adapter.captioner.config import CaptionerConfig, read_captioner_config
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.prefix_model import PrefixProjector
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner


@pytest.fixture
def make(llama, link):
    def make(**settings) -> Captioner:
        given = {"hidden": 32, "prefix_tokens": 3, "max_caption_tokens": 12, **settings}
        torch.manual_seed(0)
        return new_captioner(link, CaptionerConfig(base_model=str(llama), **given))

    return make


@pytest.fixture
def x():
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


def batch(captioner, captions, pad=None):
    ids = [torch.tensor(of_caption) for of_caption in captioner.tokenize(captions)]
    pad = captioner.pad_token_id if pad is None else pad
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "attention_mask": pad_sequence([torch.ones_like(of_row) for of_row in ids], batch_first=True),
    }


def stirred(captioner):
    """The captioner with other values in all that it trains, as after a training."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in captioner.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return captioner.eval()


@pytest.mark.parametrize(("before", "after"), [("", ""), ("sound:", ""), ("", "is"), ("hear", "in words:")])
def test_the_loss_by_hand(make, x, captions, before, after):
    captioner = make(before=before, after=after, tuning="frozen").eval()
    tokenizer, llm, embed = captioner.tokenizer, captioner.llm, captioner.llm.get_input_embeddings()
    texts = [captions[0], captions[-1], "rain"]
    is_text = torch.tensor([True, False, False])

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    total, count = torch.zeros(()), 0
    for embedding, text, as_text in zip(x, texts, is_text, strict=False):
        bridged = captioner.bridge(embedding, modality="text" if as_text else "audio")
        prefix = captioner.projector(bridged.unsqueeze(0))[0]
        start = torch.tensor([tokenizer.bos_token_id, *ids(before)])
        middle = torch.tensor(ids(after), dtype=torch.long)
        caption = torch.tensor([*ids((" " if after else "") + text), tokenizer.eos_token_id])
        row = torch.cat([embed(start), prefix, embed(middle), embed(caption)])
        logits = llm(inputs_embeds=row.unsqueeze(0)).logits[0]
        total = total + cross_entropy(logits[-len(caption) - 1 : -1], caption, reduction="sum")
        count += len(caption)
    loss = captioner(x[:3], is_text, **batch(captioner, texts))["loss"]
    torch.testing.assert_close(loss, total / count, rtol=1e-4, atol=1e-5)


def test_padding_is_not_learnt(make, x, captions):
    captioner, texts = make(tuning="frozen").eval(), ["rain", captions[-1]]
    is_text = torch.ones(2, dtype=torch.bool)
    losses = [captioner(x[:2], is_text, **batch(captioner, texts, pad))["loss"] for pad in (0, 7)]
    torch.testing.assert_close(*losses)


def test_tokenize(make, captions):
    captioner = make()
    eos = captioner.tokenizer.eos_token_id
    first, cut = captioner.tokenize(["rain", " ".join(captions)])
    assert first[-1] == eos and captioner.tokenizer.decode(first[:-1]) == "rain"
    assert len(cut) == captioner.settings.max_caption_tokens and cut[-1] == eos
    after = make(after="is").tokenize(["rain"])[0]
    assert captioner.tokenizer.decode(after[:-1]) == " rain"


def test_prefix_tokens_have_the_width_of_the_model_and_see_unit_variance():
    projector = PrefixProjector(64, 32, tokens=5, width=24)
    seen = []
    projector[0].register_forward_hook(lambda module, given, _: seen.append(given[0]))
    assert projector(torch.nn.functional.normalize(torch.randn(100, 64), dim=-1)).shape == (100, 5, 24)
    assert seen[0].square().mean().item() == pytest.approx(1, abs=1e-4)


def test_what_is_trained(make):
    def trained(captioner):
        return {name.split(".")[0] for name, value in captioner.named_parameters() if value.requires_grad}

    assert trained(make(tuning="frozen")) == {"projector"}
    assert trained(make(tuning="full")) == {"projector", "llm"}
    lora = make(tuning="lora")
    assert trained(lora) == {"projector", "llm"}
    assert all("lora_" in name for name, value in lora.llm.named_parameters() if value.requires_grad)


def test_the_two_modalities_take_their_own_way(make, x):
    captioner = make().eval()
    mixed = captioner.prefix(x[:2], torch.tensor([True, False]))
    for row, modality in enumerate(("text", "audio")):
        expected = captioner.projector(captioner.bridge(x[row : row + 1], modality=modality))
        torch.testing.assert_close(mixed[row : row + 1], expected)


def test_the_batch_size_changes_nothing(make, x):
    captioner = stirred(make(tuning="full"))
    captions = captioner.generate(x, batch_size=8)
    assert len(captions) == 8 and len(set(captions)) > 1
    assert captioner.generate(x, batch_size=1) == captions == captioner.generate(x, batch_size=3)
    assert captioner.generate(x[:0]) == []


def test_options_go_to_generate(make, x):
    captioner = stirred(make(tuning="full"))
    calls = []
    captioner.llm.register_forward_hook(lambda *_: calls.append(1))
    captioner.generate(x, max_new_tokens=2)
    assert len(calls) == 2  # a token each
    captioner.generate(x)
    assert len(calls) == 2 + captioner.settings.max_caption_tokens
    assert captioner.generate(x, num_beams=4) != captioner.generate(x)


SAVED = [
    {"tuning": "frozen"},
    {"tuning": "lora"},
    {"tuning": "full"},
    {"tuning": "lora", "before": "hear", "after": "is"},
    pytest.param({"tuning": "lora", "quantize": "nf4"}, marks=pytest.mark.quantised),
    pytest.param({"tuning": "frozen", "quantize": "nf4"}, marks=pytest.mark.quantised),
]


@pytest.mark.parametrize("settings", SAVED, ids=lambda settings: "-".join(map(str, settings.values())))
def test_what_is_saved_comes_back(make, x, tmp_path, settings):
    new = make(**settings)
    untrained = new.generate(x)
    captioner = stirred(new)
    captions = captioner.generate(x)
    assert captions != untrained
    captioner.save_pretrained(tmp_path / "out")
    loaded = load_captioner(tmp_path / "out")
    assert loaded.generate(x) == captions
    assert loaded.generate(x, modality="text") == captioner.generate(x, modality="text")
    assert loaded.settings == captioner.settings and not loaded.training
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("adapter" in names) == (settings["tuning"] != "frozen")


def test_a_lora_is_saved_without_its_base(make, tmp_path):
    make(tuning="lora").save_pretrained(tmp_path)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 100_000


def test_a_folder_that_holds_both_can_be_moved(llama, link, x, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(llama, home / "llama")
    (home / "clap").mkdir()
    config = CaptionerConfig(str(home / "llama"), hidden=32, encoder="clap", encoder_path=str(home / "clap"))
    captioner = stirred(new_captioner(link, config))
    captions = captioner.generate(x[:2], max_new_tokens=8)
    captioner.save_pretrained(home / "captioners" / "bridge")
    assert str(tmp_path) not in (home / "captioners" / "bridge" / "captioner.json").read_text()
    home.rename(tmp_path / "elsewhere")
    loaded = load_captioner(tmp_path / "elsewhere" / "captioners" / "bridge")
    assert loaded.generate(x[:2], max_new_tokens=8) == captions
    assert loaded.settings.encoder_path == str(tmp_path / "elsewhere" / "clap")
    loaded.save_pretrained(tmp_path / "elsewhere" / "again")
    assert load_captioner(tmp_path / "elsewhere" / "again").generate(x[:2], max_new_tokens=8) == captions


def test_a_hub_id_is_kept_as_it_is(make, tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "captioner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model": "org/model"}))
    assert read_captioner_config(tmp_path).base_model == "org/model"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tuning": "prompt"}, "tuning is 'prompt': expected frozen, lora or full"),
        ({"quantize": "gguf"}, "quantize is 'gguf': expected nf4, fp4, int8 or nothing"),
        ({"quantize": "nf4", "tuning": "full"}, "cannot be tuned in full: use tuning lora or frozen"),
        ({"prefix_tokens": 0}, "must be at least 1"),
        ({"max_caption_tokens": 0}, "must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        CaptionerConfig(base_model="org/model", **settings)


def test_a_folder_without_a_captioner(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no captioner\.json: it is not a saved captioner"):
        load_captioner(tmp_path)
    (tmp_path / "captioner.json").write_text('{"base_model": "org/model", "prefix": 3}')
    with pytest.raises(ValueError, match="unknown CaptionerConfig key prefix"):
        load_captioner(tmp_path)


def test_a_tokenizer_without_an_end(make):
    captioner = make()
    captioner.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no EOS token, so that captions would never end"):
        Captioner(captioner.bridge, captioner.llm, captioner.tokenizer, captioner.settings)


@pytest.mark.quantised
def test_a_quantised_captioner_has_gradients_after_it_generated(make, x, captions):
    captioner = make(tuning="lora", quantize="nf4", lora_dropout=0.0)
    rows, is_text = batch(captioner, captions[:8]), torch.zeros(8, dtype=torch.bool)

    def gradient():
        captioner.train()
        captioner.zero_grad()
        torch.manual_seed(0)
        captioner(x, is_text, **rows)["loss"].backward()
        return captioner.projector[0].weight.grad.clone()

    before = gradient()
    captioner.generate(x, max_new_tokens=2)
    assert before.abs().sum() > 0
    after = gradient()  # packing rounds the scales
    assert torch.cosine_similarity(after.flatten(), before.flatten(), dim=0) > 0.999
