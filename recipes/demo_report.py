"""What `dlink demo` shows at the end: scores, figures, examples and the captioner that `dlink caption` takes."""

from pathlib import Path
from typing import Any

from dlink_adapter import PairedEmbeddings, load_bridge
from dlink_adapter.files import write_atomically
from dlink_adapter.integrations.causal_lm import load_captioner
from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.plots import plot_caption_scores, plot_clouds
from dlink_adapter.measure.significance import interval
from dlink_adapter.soundscapes import render, write_wav
from dlink_adapter.soundscapes.named import share_right
from dlink_adapter.soundscapes.world import World

EXAMPLES = 20
SHOWN = "bridge"  # the method of the examples and of the captioner that `dlink caption` takes


def report(world: World, captions: dict[str, dict[str, list[str]]], shown: Path, out: Path) -> dict[str, Any]:
    """Score captions[setup][method] of the test split, draw the figures, write the examples and the model `shown`."""
    test = PairedEmbeddings.open(out / "embeddings" / "test")
    scores: dict[str, Any] = {setup: {} for setup in captions}
    intervals: dict[str, Any] = {setup: {} for setup in captions}
    for setup, by_method in captions.items():
        for label, said in by_method.items():
            found = score(said, test.captions)
            right = share_right(said, world.scenes("test"))
            scores[setup][label] = {**found.scores, "events_right": right, "vocabulary": found.vocabulary}
            intervals[setup][label] = {name: interval(pooled) for name, pooled in found.pooled.items()}
    plot_caption_scores(out / "captions.png", scores, intervals)
    panels = {"before": "raw", "after the bridge": "diffusion_link"}
    clouds = {title: load_bridge(out / "bridges" / name).map_rows(test.audio) for title, name in panels.items()}
    plot_clouds(out / "clouds.png", {title: (bridged, test.first_captions()) for title, bridged in clouds.items()})
    _write_examples(world, captions, test, out / "examples")
    load_captioner(shown).save_pretrained(out)
    return {"scores": scores, "intervals": intervals, "not_run": found.not_run, "tokenizer": found.tokenizer}


def _write_examples(world: World, captions: dict[str, Any], test: PairedEmbeddings, folder: Path) -> None:
    folder.mkdir()
    shown = SHOWN.replace("_", " ")
    lines = [
        f"The first {EXAMPLES} test scenes, whatever was said of them.", "",
        f"| clip | events | a reference | zero-shot, raw | zero-shot, {shown} |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for index, scene in enumerate(world.scenes("test")[:EXAMPLES]):
        events = f"{scene.relation}: {', '.join(placed.event for placed in scene.events)}"
        write_wav(folder / f"{index:02d}.wav", render(scene, world.rate), world.rate)
        said = captions["zero_shot"]["raw"][index], captions["zero_shot"][SHOWN][index]
        lines.append(f"| {index:02d}.wav | {events} | {test.captions[index][0]} | {said[0]} | {said[1]} |")
    write_atomically(folder / "examples.md", "\n".join(lines) + "\n")


def table(results: dict[str, Any]) -> str:
    """The headline of results.json: a line a method, with the share of captions that name just the events there are."""
    rows = [
        f"{'':<20}{'':>24}{'zero-shot':>18}{'supervised':>18}",
        f"{'':<20}{'RMG':>8}{'cosine':>8}{'R@1':>8}" + 2 * f"{'CIDEr-D':>10}{'events':>8}",
    ]
    for label in results["gap"]:
        gap = "".join(f"{results['gap'][label][name]:>8.3f}" for name in ("rmg", "paired_cosine", "r_at_1"))
        said = (of[label] for of in results["captions"].values())
        rows.append(f"{label:<20}{gap}" + "".join(f"{of['cider_d']:>10.3f}{of['events_right']:>8.3f}" for of in said))
    return "\n".join(rows)
