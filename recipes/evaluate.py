"""Score captions as audio captioning does: BLEU, ROUGE-L, METEOR, CIDEr-D, SPICE, SPIDEr, FENSE, with intervals.

dlink evaluate said.jsonl --references audiocaps_test.csv --out scores
dlink evaluate said.jsonl --references clotho.csv --against baseline.jsonl

The predictions are a file that `dlink caption --out` writes, a line {"clip": ..., "caption": ...} for each clip, where
"clip" is the id of the clip or the path of its file. The references are a table that `dlink extract-embeddings` takes
(AudioCaps, Clotho, or path and caption), or a folder of paired embeddings. Every score has a 95 % bootstrap interval
over the clips. --against adds the difference from other predictions, its interval, and p by approximate randomisation.
A metric that cannot run is null, and `not_run` gives the reason. Candidates of the predictions are scored too, the best
of each clip, and with `--model` their confidences are judged. The output folder holds scores.json and clips.jsonl, the
scores of each clip, and the reliability curve of confidences.
"""

from pathlib import Path
from typing import Any, Literal

from dlink_adapter import PairedEmbeddings
from dlink_adapter.data.clip_tables import Clip, read_clips
from dlink_adapter.files import check_own, to_jsonl, write_atomically
from dlink_adapter.measure.caption_metrics import CaptionScores, score
from dlink_adapter.measure.predictions import Matched, match, read_predictions
from dlink_adapter.measure.reliability import Reliability, plot_reliability
from dlink_adapter.measure.significance import LEVEL, RESAMPLES, compare, interval
from dlink_adapter.recipes.evaluate_candidates import best_of, confidence
from dlink_adapter.recipes.evaluate_report import as_json, table


def main(
    predictions: Path,
    *,
    references: Path,
    out: Path | None = None,
    against: Path | None = None,
    encoder: str = "clap",
    model: str | None = None,
    json: bool = False,
    layout: str | None = None,
    metrics: list[str] | None = None,
    tokenizer: Literal["ptb", "plain"] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> None:
    """Score captions.

    Args:
        predictions: JSONL, {"clip": ..., "caption": ...} a line.
        references: table of captions, or folder of paired embeddings.
        out: folder for scores.json and clips.jsonl; those of an earlier evaluation are replaced.
        against: other predictions to compare with, on the clips that both have.
        encoder: kind of the encoder whose text tower says which captions are right, to judge confidences by.
        model: its hub id, folder or shipped name; confidences are not judged without it.
        json: print JSON and nothing else.
        layout: of the references: table, audiocaps, clotho, folder or labels; by default found from the columns.
        metrics: some of the metrics; all of them by default.
        tokenizer: ptb, which published figures use and which needs Java, or plain; by default ptb where Java is found.
        resamples: number of resamples of the bootstrap and of the randomisation.
        seed: seed of the resamples.
    """
    if out is not None:
        check_own(out, "scores.json")
    clips, draws = _references(references, layout), {"resamples": resamples, "seed": seed}
    ours, theirs = _common(clips, predictions, against)
    scores = score(ours.captions, groups := [clip.captions for clip in ours.clips], metrics, tokenizer=tokenizer)
    results = _summary(scores, ours, clips) | _facts(scores, groups, draws)
    if all(said.candidates for said in ours.predictions):
        results["best_of"] = best_of(ours, tokenizer)
    if model is not None:
        results["confidence"] = confidence(ours, encoder, model)._asdict()
    lines = _lines(ours, scores)
    if theirs is not None:
        others = score(theirs.captions, groups, metrics, tokenizer=tokenizer)
        results["against"] = _summary(others, theirs, clips) | {"differences": _differences(scores, others, draws)}
        for line, other in zip(lines, _lines(theirs, others), strict=True):
            line["against"] = {"caption": other["caption"], "scores": other["scores"]}
    if out is not None:
        _write(out, results, lines)
    print(as_json(results) if json else table(results))


def _facts(scores: CaptionScores, groups: list[list[str]], draws: dict[str, int]) -> dict[str, Any]:
    return {
        "intervals": {name: interval(pooled, **draws) for name, pooled in scores.pooled.items()},
        "not_run": scores.not_run,
        "tokenizer": scores.tokenizer,
        "captions_a_clip": sum(map(len, groups)) / len(groups),
        "settings": {"level": LEVEL, **draws},
    }


def _write(out: Path, results: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "scores.json", as_json(results))
    write_atomically(out / "clips.jsonl", to_jsonl(lines))
    if "confidence" in results:
        plot_reliability(out / "reliability.png", Reliability(**results["confidence"]))


def _references(source: Path, layout: str | None) -> list[Clip]:
    if layout is None and (source / "header.json").is_file():
        pairs = PairedEmbeddings.open(source, check_values=False)
        return [Clip(name, Path(name), group) for name, group in zip(pairs.ids, pairs.captions, strict=True)]
    return read_clips(source, layout)


def _common(clips: list[Clip], predictions: Path, against: Path | None) -> tuple[Matched, Matched | None]:
    """Our predictions and the others, both restricted to the clips that both have."""
    ours = match(clips, read_predictions(predictions))
    if against is None:
        return ours, None
    theirs = match(clips, read_predictions(against))
    both = {clip.id for clip in ours.clips} & {clip.id for clip in theirs.clips}
    if not both:
        raise ValueError(f"{predictions} and {against} have no clip with references in common")
    return ours.only(both), theirs.only(both)


def _summary(scores: CaptionScores, matched: Matched, clips: list[Clip]) -> dict[str, Any]:
    counts = {
        "scored": len(matched.clips),
        "with_references": len(clips),
        "without_prediction": len(matched.without_prediction),
        "predictions_without_references": len(matched.without_references),
        "only_in_one": len(clips) - len(matched.without_prediction) - len(matched.clips),
    }
    return {
        "scores": scores.scores,
        "vocabulary": scores.vocabulary,
        "mean_length": scores.mean_length,
        "clips": counts,
    }


def _differences(ours: CaptionScores, theirs: CaptionScores, draws: dict[str, int]) -> dict[str, dict[str, Any]]:
    return {name: vars(compare(pooled, theirs.pooled[name], **draws)) for name, pooled in ours.pooled.items()}


def _lines(matched: Matched, scores: CaptionScores) -> list[dict[str, Any]]:
    """A line of clips.jsonl for each clip."""
    return [
        {
            "clip": clip.id,
            "caption": caption,
            "references": clip.captions,
            "scores": {name: values[row] for name, values in scores.per_clip.items()},
        }
        for row, (clip, caption) in enumerate(zip(matched.clips, matched.captions, strict=True))
    ]
