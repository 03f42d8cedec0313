from dlink_adapter.soundscapes.events.event import Phrase


def test_the_auxiliary_follows_the_verb():
    assert Phrase("a dog", "barks", "barking").auxiliary == "is"
    assert Phrase("geese", "hiss", "hissing").auxiliary == "are"
    assert Phrase("birds", "sing", "singing").auxiliary == "are"
