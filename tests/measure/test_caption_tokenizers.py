"""The words of each caption, with as many captions out as in."""

import shutil

import pytest

from dlink_adapter.measure.caption_tokenizers import plain, ptb


def test_plain_tokenizer():
    assert plain(["A Dog's bark, loud!  (twice)", "don't -- stop", "", "Über-laut"]) == [
        *("a dog's bark loud twice", "don't stop", "", "über laut")
    ]


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_ptb_tokenizer_keeps_captions_apart():
    captions = ["A dog's bark, loud!", "", "two\nlines\u2028and \x85 more", "...", "Glocke läutet"]
    assert ptb(captions) == ["a dog 's bark loud", "", "two lines and more", "", "glocke läutet"]
