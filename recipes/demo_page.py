"""`report.html` of `dlink demo`: scores, figures and examples to listen to, in one file that needs nothing else."""

from base64 import b64encode
from collections import Counter
from difflib import SequenceMatcher
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
from jinja2 import Environment, StrictUndefined

from dlink_adapter import Captioner, PairedEmbeddings
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.plots import METRIC_NAMES
from dlink_adapter.recipes.demo_report import EXAMPLES, SHOWN
from dlink_adapter.soundscapes.named import named_events
from dlink_adapter.soundscapes.scenes import Scene
from dlink_adapter.soundscapes.world import World

PAGE, TEMPLATE = "report.html", "demo_page.html"
CANDIDATES = 8  # of each example, as of the calibration
WITHOUT = "raw"  # the method that is shown beside `SHOWN`
GAP = {"rmg": "RMG", "paired_cosine": "paired cosine", "centroid_distance": "centroid distance", "r_at_1": "R@1"}
CAPTION = {name: METRIC_NAMES[name] for name in ("cider_d", "meteor", "rouge_l", "bleu_4")} | {"events_right": "events"}

Captions = dict[str, dict[str, list[str]]]  # [set-up][method]


class Table(NamedTuple):
    """A table of the page; each row is its head and its cells."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


class Said(NamedTuple):
    """A caption: its words in runs, each with whether the other caption differs there, and the judged events."""

    label: str
    runs: list[tuple[str, bool]]
    events: list[tuple[str, str]]


def write_page(world: World, captions: Captions, results: dict[str, Any], out: Path) -> None:
    """Write the page of a run whose other files are in `out`. `results` is what results.json holds."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8"))
    tables = [_gap_table(results["gap"]), *(_caption_table(setup, results) for setup in captions)]
    figures = {name: _data("image/png", (out / f"{name}.png").read_bytes()) for name in ("clouds", "captions")}
    settings = {name: results[name] for name in ("seed", "clap", "quantize", "fast")}
    sizes = {f"scenes of {name}": count for name, count in world.sizes.items()}
    page = template.render(
        results=results, tables=tables, figures=figures, settings=settings | sizes,
        shown=_spaced(SHOWN), without=_spaced(WITHOUT), examples=_examples(world, captions, out),
    )  # fmt: skip
    write_atomically(out / PAGE, page)


def _gap_table(gap: dict[str, dict[str, float]]) -> Table:
    rows = [(_spaced(method), [f"{of[name]:.3f}" for name in GAP]) for method, of in gap.items()]
    return Table("The modality gap that each method leaves", [*GAP.values()], rows)


def _caption_table(setup: str, results: dict[str, Any]) -> Table:
    rows = [
        (_spaced(method), [_score(scores[name], results["intervals"][setup][method].get(name)) for name in CAPTION])
        for method, scores in results["captions"][setup].items()
    ]
    return Table(f"Captions, {_spaced(setup)}", [*CAPTION.values()], rows)


def _score(score: float | None, interval: list[float] | None) -> str:
    if score is None:
        return "not run"
    return f"{score:.3f}" if interval is None else f"{score:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _examples(world: World, captions: Captions, out: Path) -> list[dict[str, Any]]:
    """What the page shows of each example: its sound, the references and what was said of it."""
    test, scenes = PairedEmbeddings.open(out / "embeddings" / "test"), world.scenes("test")[:EXAMPLES]
    best = Captioner.from_pretrained(out).caption(test.audio[: len(scenes)], candidates=CANDIDATES, return_all=True)
    return [
        {
            "events": [(_spaced(placed.event), placed.onset, placed.end) for placed in scene.events],
            "audio": _flac(out / "examples" / f"{index:02d}.wav"),
            "references": test.captions[index],
            "said": [said for setup in captions for said in _both(setup, captions[setup], index, scene)],
            "best": best[index],
        }
        for index, scene in enumerate(scenes)
    ]


def _both(setup: str, said: dict[str, list[str]], index: int, scene: Scene) -> list[Said]:
    """The captions without and with the bridge."""
    one, other = said[WITHOUT][index], said[SHOWN][index]
    return [
        Said(f"{_spaced(setup)}, {_spaced(method)}", _runs(caption, against), _judged(caption, scene))
        for method, caption, against in ((WITHOUT, one, other), (SHOWN, other, one))
    ]


def _runs(caption: str, other: str) -> list[tuple[str, bool]]:
    words = caption.split()
    changes = SequenceMatcher(None, words, other.split(), autojunk=False).get_opcodes()
    return [(" ".join(words[start:end]), kind != "equal") for kind, start, end, *_ in changes if end > start]


def _judged(caption: str, scene: Scene) -> list[tuple[str, str]]:
    """Events with "right" (named and there), "wrong" (named, not there) or "missed" (there, not named)."""
    said, there = Counter(named_events(caption)), Counter(placed.event for placed in scene.events)
    verdicts = {"right": said & there, "wrong": said - there, "missed": there - said}
    return [(_spaced(event), verdict) for verdict, events in verdicts.items() for event in events.elements()]


def _flac(wav: Path) -> str:
    """A sound without loss in half the bytes, in a format that every browser plays."""
    content = BytesIO()
    soundfile.write(content, *soundfile.read(wav, dtype="int16"), format="FLAC")
    return _data("audio/flac", content.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _spaced(name: str) -> str:
    return name.replace("_", " ")
