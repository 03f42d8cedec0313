"""The page of the demo: one file that needs nothing else, in order for a reader, whatever a caption holds."""

import json
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from dlink_adapter.recipes.demo import METHODS
from dlink_adapter.recipes.demo_page import CAPTION, PAGE, _judged, _runs, write_page
from dlink_adapter.recipes.demo_parts import FAST
from dlink_adapter.recipes.demo_report import EXAMPLES
from dlink_adapter.soundscapes.scenes import Placed, Scene
from dlink_adapter.soundscapes.world import World

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The elements with their attributes, in order, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(demo_folder):
    return Page((demo_folder / PAGE).read_text(encoding="utf-8"))


def test_it_is_one_small_file_that_needs_nothing_else(demo_folder, page):
    assert (demo_folder / PAGE).stat().st_size < 5e6
    links = [of[name] for _, of in page.elements for name in ("src", "href", "srcset", "action") if name in of]
    assert len(links) > EXAMPLES and all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in page.text["style"][0] and "@import" not in page.text["style"][0] and not page.all("script")
    targets = {of["id"] for _, of in page.elements if "id" in of}
    assert {link[1:] for link in links if link.startswith("#")} <= targets


def test_it_can_be_read_in_order_and_without_eyes(page):
    assert page.open == [] and page.all("html") == [{"lang": "en"}] and page.text["title"]
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("img")) == 2 and all(image["alt"].strip() for image in page.all("img"))
    assert {of["scope"] for of in page.all("th")} == {"row", "col"}
    assert all(of["aria-label"] for of in page.all("audio"))
    ids = [of["id"] for _, of in page.elements if "id" in of]
    assert len(ids) == len(set(ids))


def test_each_example_has_its_sound_and_what_was_said(demo_folder, page):
    sounds = [of["src"] for of in page.all("audio")]
    assert len(sounds) == len(set(sounds)) == len(page.all("article")) == EXAMPLES
    assert all(sound.startswith("data:audio/flac;base64,ZkxhQ") for sound in sounds)  # fLaC
    assert sum(text == "5 references" for text in page.text["summary"]) == EXAMPLES
    assert sum(", confidence" in " ".join(text.split()) for text in page.text["summary"]) == EXAMPLES
    assert any("missed: " in text for text in page.text["li"])


def test_the_tables_hold_the_results(demo_folder, page):
    results = json.loads((demo_folder / "results.json").read_text())
    assert page.text["caption"][1:] == ["Captions, zero shot", "Captions, supervised"]
    cells, width = page.text["td"], len(CAPTION)
    first = len(METHODS) * 4  # after the table of the gap
    for place, setup in enumerate(("zero_shot", "supervised")):
        for row, method in enumerate(METHODS):
            start = first + (place * len(METHODS) + row) * width
            score, (low, high) = (
                results["captions"][setup][method]["cider_d"],
                results["intervals"][setup][method]["cider_d"],
            )
            assert cells[start] == f"{score:.3f} ({low:.3f} to {high:.3f})"
    assert results["versions"]["torch"] in page.text["dd"] and results["seconds"]["page"] >= 0


def test_captions_are_text_and_not_markup(demo_folder, tmp_path):
    for part in demo_folder.iterdir():
        if part.name != PAGE:
            (tmp_path / part.name).symlink_to(part)
    bad = "<script>alert('&amp;')</script>"
    captions = {setup: {method: [bad] * FAST.scenes["test"] for method in METHODS} for setup in ("zero_shot",)}
    write_page(World(0, FAST.scenes), captions, json.loads((demo_folder / "results.json").read_text()), tmp_path)
    page = Page((tmp_path / PAGE).read_text(encoding="utf-8"))
    assert page.all("script") == [] and page.text["p"].count(bad) == 2 * EXAMPLES


def test_words_that_differ_are_marked():
    assert _runs("a dog barks and rain falls", "a cat meows and rain falls") == [
        ("a", False), ("dog barks", True), ("and rain falls", False),
    ]  # fmt: skip
    assert _runs("rain", "") == [("rain", True)] and _runs("", "rain") == []


def test_events_are_judged_by_what_is_there():
    scene = Scene(tuple(Placed(event, 0, 1, 1, 0, 0, 0) for event in ("dog_bark", "rain")), "while", 0)
    assert _judged("a dog barks as a dog barks and a siren wails", scene) == [
        ("dog bark", "right"), ("dog bark", "wrong"), ("siren", "wrong"), ("rain", "missed"),
    ]  # fmt: skip
