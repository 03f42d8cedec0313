import numpy as np
import pytest
import torch

import dlink_adapter
from dlink_adapter.extract.encoders import (
    ENCODERS,
    AudioEncoder,
    Encoder,
    ImageEncoder,
    Loaded,
    check_tokenizer,
    encode_distinct,
    load_encoder,
    pooled,
)


class Lookup:
    """The smallest encoder there is."""

    dim = 2
    fingerprint = "lookup"

    def __init__(self, path, scale):
        self.path, self.scale = path, scale

    @classmethod
    def from_pretrained(cls, path, *, scale=1.0):
        return cls(path, scale)

    def load(self, path):
        return Loaded(np.zeros(2, np.float32))

    def describe(self):
        return {"id": self.path, "fingerprint": self.fingerprint}

    def encode_audio(self, clips):
        return torch.tensor([[self.scale, 0.0]] * len(clips))

    def encode_text(self, captions):
        return torch.tensor([[0.0, self.scale]] * len(captions))


def test_an_encoder_is_one_entry(monkeypatch):
    monkeypatch.setitem(ENCODERS, "lookup", f"{__name__}:Lookup")
    encoder = load_encoder("lookup", "somewhere", scale=3.0)
    assert isinstance(encoder, AudioEncoder) and not isinstance(encoder, ImageEncoder)
    assert (encoder.path, encoder.scale) == ("somewhere", 3.0)


def test_an_encoder_of_ones_own_has_a_name(monkeypatch):
    monkeypatch.setattr("dlink_adapter.extract.encoders.ENCODERS", dict(ENCODERS))
    for _ in range(2):  # as where a module is imported again
        dlink_adapter.register_encoder("lookup", f"{__name__}:Lookup")
    assert isinstance(load_encoder("lookup", "somewhere"), Lookup)
    with pytest.raises(ValueError, match=r"encoder 'clap' is registered already, as .*ClapEncoder"):
        dlink_adapter.register_encoder("clap", f"{__name__}:Lookup")
    with pytest.raises(ValueError, match="encoder 'other' is at 'module': expected 'module:Class'"):
        dlink_adapter.register_encoder("other", "module")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown encoder 'clop'; known: .*clap"):
        load_encoder("clop", "somewhere")


@pytest.mark.parametrize("entry", ENCODERS.values())
def test_every_entry_names_a_class_that_loads(entry):
    pytest.importorskip("transformers")
    from importlib import import_module

    module, _, attribute = entry.partition(":")
    encoder = getattr(import_module(module), attribute)
    media = "encode_image" if entry.endswith(":ClipEncoder") or "open_clip" in entry else "encode_audio"
    for method in ("from_pretrained", "describe", "encode_text", media):
        assert callable(getattr(encoder, method))


def test_something_without_the_methods_is_no_encoder():
    assert not isinstance(torch.nn.Linear(2, 2), Encoder)


def test_equal_captions_are_computed_once_and_batches_hold_like_lengths():
    batches = []

    def embed(batch):
        batches.append(batch)
        return torch.tensor([[float(len(caption)), 1.0] for caption in batch])

    rows = encode_distinct(["aaa", "b", "aaa", "cc"], embed, batch_size=2, dim=2)
    assert batches == [["b", "cc"], ["aaa"]]
    torch.testing.assert_close(rows, torch.nn.functional.normalize(torch.tensor([[3.0, 1], [1, 1], [3, 1], [2, 1]])))
    assert encode_distinct([], embed, batch_size=2, dim=2).shape == (0, 2)
    with pytest.raises(ValueError, match="caption 1 is ' '"):
        encode_distinct(["a", " "], embed, batch_size=2, dim=2)
    assert torch.equal(encode_distinct(iter(["b", "aaa"]), embed, batch_size=2, dim=2), rows[[1, 0]])
    for single in ("a dog", {"array": 0, "sampling_rate": 1}, ([0.0], 16_000)):
        with pytest.raises(TypeError, match=r"got the single item .*put it in a list"):
            encode_distinct(single, embed, batch_size=2, dim=2)


def test_an_embedding_of_another_width_is_refused():
    assert pooled(torch.ones(1, 4, dtype=torch.float16), 4).dtype == torch.float32
    with pytest.raises(ValueError, match="expected embeddings of width 3"):
        pooled(torch.ones(1, 4), 3)


def test_a_tokenizer_with_more_words_than_the_model():
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "dog": 1, "barks": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    check_tokenizer(tokenizer, len(tokenizer))
    with pytest.raises(ValueError, match="not the same one"):
        check_tokenizer(tokenizer, len(tokenizer) - 1)
