"""`Captioner.generate` takes what transformers' `generate` takes, and leaves the captioner as it was."""

import pytest
import torch
from transformers import GenerationConfig, TextStreamer

from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.integrations.causal_lm import new_captioner


@pytest.fixture
def captioner(llama, link):
    torch.manual_seed(0)
    config = CaptionerConfig(base_model=str(llama), hidden=32, prefix_tokens=3, max_caption_tokens=6, tuning="frozen")
    return new_captioner(link, config).eval()


@pytest.fixture
def x():
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(1))


def lengths(captioner, captions):
    return [len(captioner.tokenizer(caption, add_special_tokens=False)["input_ids"]) for caption in captions]


def test_numpy_is_a_tensor(captioner, x):
    assert captioner.generate(x.numpy()) == captioner.generate(x)
    assert captioner.generate(x.double().numpy(), batch_size=3) == captioner.generate(x)


@pytest.mark.parametrize("shape", [(16,), (2, 3, 16), (2, 15)])
def test_another_shape_is_refused(captioner, shape):
    with pytest.raises(ValueError, match=r"expected embeddings \(n, 16\), got \("):
        captioner.generate(torch.ones(shape))


def test_a_word_that_is_no_modality(captioner, x):
    with pytest.raises(ValueError, match="modality is 'Text': expected one of audio, text"):
        captioner.generate(x, modality="Text")


def test_the_mode_comes_back(captioner, x):
    captioner.train()
    captioner.generate(x[:1])
    assert captioner.training and captioner.llm.training and not captioner.bridge.training
    with pytest.raises(ValueError, match="zero, or has NaN"):
        captioner.generate(torch.zeros(1, 16))
    assert captioner.training
    captioner.eval().generate(x[:1])
    assert not captioner.training and not captioner.llm.training


def test_a_generation_config(captioner, x):
    beams = captioner.generate(x, num_beams=4, max_new_tokens=3)
    config = GenerationConfig(num_beams=4, max_new_tokens=3)
    assert captioner.generate(x, generation_config=config) == beams != captioner.generate(x)
    assert config.eos_token_id is None  # the user's object is left alone
    assert captioner.generate(x, generation_config=GenerationConfig(num_beams=4), max_new_tokens=3) == beams
    assert captioner.generate(x, generation_config=GenerationConfig()) == captioner.generate(x)


def test_options_go_before_our_own(captioner, x):
    first = captioner.llm.generate(inputs_embeds=captioner.inputs_embeds(x[:1]), max_new_tokens=1, do_sample=False)
    assert captioner.generate(x[:1], eos_token_id=first.item(), pad_token_id=first.item(), max_new_tokens=5) == [
        captioner.tokenizer.decode(first[0]).strip()
    ]


def test_several_captions_of_a_clip(captioner, x):
    found = captioner.generate(x, num_beams=3, num_return_sequences=3, batch_size=3)
    assert [len(of_clip) for of_clip in found] == [3] * 4 and all(len(set(of_clip)) > 1 for of_clip in found)
    assert [of_clip[0] for of_clip in found] == captioner.generate(x, num_beams=3)
    config = GenerationConfig(num_beams=3, num_return_sequences=3)
    assert captioner.generate(x, generation_config=config) == found
    assert captioner.generate(x[:0], num_return_sequences=3) == []


def test_a_streamer(captioner, x, capsys):
    captions = captioner.generate(x[:2], streamer=TextStreamer(captioner.tokenizer), batch_size=1)
    streamed = capsys.readouterr().out
    assert all(captions) and all(caption in streamed for caption in captions)


def test_a_dict_is_refused_with_the_way_out(captioner, x):
    asked: dict = {"return_dict_in_generate": True}
    for options in (asked, {"generation_config": GenerationConfig(**asked)}):
        with pytest.raises(ValueError, match=r"call captioner\.llm\.generate\(inputs_embeds=captioner\.inputs_embeds"):
            captioner.generate(x, **options)
    output = captioner.llm.generate(
        inputs_embeds=captioner.inputs_embeds(x), return_dict_in_generate=True, output_scores=True, max_new_tokens=2
    )
    assert len(output.scores) == 2 and output.scores[0].shape[0] == 4
