import pytest
import torch

from dlink_adapter.encoders import ENCODERS, Encoder, load_encoder


class Lookup:
    """The smallest encoder there is."""

    dim = 2
    fingerprint = "lookup"

    def __init__(self, path, scale):
        self.path, self.scale = path, scale

    @classmethod
    def from_pretrained(cls, path, *, scale=1.0):
        return cls(path, scale)

    def encode_audio(self, clips):
        return torch.tensor([[self.scale, 0.0]] * len(clips))

    def encode_text(self, captions):
        return torch.tensor([[0.0, self.scale]] * len(captions))


def test_an_encoder_is_one_entry(monkeypatch):
    monkeypatch.setitem(ENCODERS, "lookup", f"{__name__}:Lookup")
    encoder = load_encoder("lookup", "somewhere", scale=3.0)
    assert isinstance(encoder, Encoder)
    assert (encoder.path, encoder.scale) == ("somewhere", 3.0)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown encoder 'clop'; known: .*clap"):
        load_encoder("clop", "somewhere")


@pytest.mark.parametrize("entry", ENCODERS.values())
def test_every_entry_names_a_class_that_loads(entry):
    pytest.importorskip("transformers")
    from importlib import import_module

    module, _, attribute = entry.partition(":")
    encoder = getattr(import_module(module), attribute)
    for method in ("from_pretrained", "encode_audio", "encode_text"):
        assert callable(getattr(encoder, method))


def test_something_without_the_methods_is_no_encoder():
    assert not isinstance(torch.nn.Linear(2, 2), Encoder)
