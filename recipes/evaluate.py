"""Score captions as audio captioning does: BLEU, ROUGE-L, METEOR, CIDEr-D, SPICE, SPIDEr, FENSE, and how sure they are.

dlink evaluate said.jsonl --references audiocaps_test.csv --out scores
dlink evaluate said.jsonl --references clotho.csv --against baseline.jsonl

The predictions are what `dlink caption --out` writes, a line {"clip": ..., "caption": ...} a clip; "clip" is the clip's
id or the path of its file, of which the last parts count. The references are a table that `dlink extract-embeddings`
takes (AudioCaps, Clotho, or path and caption), or a folder that it made. Every score has a 95 % bootstrap interval over
the clips; with --against also the difference to other predictions, its interval, and p by approximate randomisation. A
metric that cannot run is null, and `not_run` says what it needs. The output folder holds scores.json and clips.jsonl,
the scores of each clip.
"""

from pathlib import Path
from typing import Any, Literal

from dlink_adapter import PairedEmbeddings
from dlink_adapter.data.clip_tables import Clip, read_clips
from dlink_adapter.extract.plan import to_jsonl
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.caption_metrics import CaptionScores, score
from dlink_adapter.measure.predictions import Matched, match, read_predictions
from dlink_adapter.measure.significance import LEVEL, RESAMPLES, compare, interval
from dlink_adapter.recipes.evaluate_report import as_json, table


def main(
    predictions: Path,
    *,
    references: Path,
    out: Path | None = None,
    against: Path | None = None,
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
        out: folder for scores.json and clips.jsonl.
        against: other predictions to compare with, on the clips that both have.
        json: print JSON and nothing else.
        layout: of the references: table, audiocaps, clotho, folder or labels; by default what the columns say.
        metrics: some of the metrics; all of them by default.
        tokenizer: ptb, which published figures use and which needs Java, or plain; ptb by default where Java is.
        resamples: of the bootstrap and of the randomisation.
        seed: of the resamples.
    """
    clips = _references(references, layout)
    ours, theirs = _common(clips, predictions, against)
    groups = [clip.captions for clip in ours.clips]
    scores = score(ours.captions, groups, metrics, tokenizer=tokenizer)
    results: dict[str, Any] = {
        **_summary(scores),
        "intervals": {name: interval(it, resamples=resamples, seed=seed) for name, it in scores.pooled.items()},
        "not_run": scores.not_run,
        "tokenizer": scores.tokenizer,
        "clips": _counts(ours, clips),
        "captions_a_clip": sum(map(len, groups)) / len(groups),
        "settings": {"level": LEVEL, "resamples": resamples, "seed": seed},
    }
    lines = [
        _line(clip, said, scores, row) for row, (clip, said) in enumerate(zip(ours.clips, ours.captions, strict=True))
    ]
    if theirs is not None:
        other = score(theirs.captions, groups, metrics, tokenizer=tokenizer)
        results["against"] = {
            **_summary(other),
            "clips": _counts(theirs, clips),
            "differences": {
                name: vars(compare(it, other.pooled[name], resamples=resamples, seed=seed))
                for name, it in scores.pooled.items()
            },
        }
        for row, line in enumerate(lines):
            line["against"] = {"caption": theirs.captions[row], "scores": _of_clip(other, row)}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "clips.jsonl", to_jsonl(lines))
        write_atomically(out / "scores.json", as_json(results))
    print(as_json(results) if json else table(results))


def _references(source: Path, layout: str | None) -> list[Clip]:
    if layout is None and (source / "header.json").is_file():
        pairs = PairedEmbeddings.open(source, check_values=False)
        return [Clip(name, Path(name), group) for name, group in zip(pairs.ids, pairs.captions, strict=True)]
    return read_clips(source, layout)


def _common(clips: list[Clip], predictions: Path, against: Path | None) -> tuple[Matched, Matched | None]:
    """What was said of the clips, and what the others said: both of the same clips, those that both have."""
    ours = match(clips, read_predictions(predictions))
    if against is None:
        return ours, None
    theirs = match(clips, read_predictions(against))
    both = {clip.id for clip in ours.clips} & {clip.id for clip in theirs.clips}
    if not both:
        raise ValueError(f"{predictions} and {against} have no clip with references in common")
    return ours.only(both), theirs.only(both)


def _summary(scores: CaptionScores) -> dict[str, Any]:
    return {"scores": scores.scores, "vocabulary": scores.vocabulary, "mean_length": scores.mean_length}


def _counts(matched: Matched, clips: list[Clip]) -> dict[str, int]:
    return {
        "scored": len(matched.clips),
        "with_references": len(clips),
        "without_prediction": len(matched.without_prediction),
        "predictions_without_references": len(matched.without_references),
        "only_in_one": len(clips) - len(matched.without_prediction) - len(matched.clips),
    }


def _line(clip: Clip, said: str, scores: CaptionScores, row: int) -> dict[str, Any]:
    return {"clip": clip.id, "caption": said, "references": clip.captions, "scores": _of_clip(scores, row)}


def _of_clip(scores: CaptionScores, row: int) -> dict[str, float]:
    return {name: values[row] for name, values in scores.per_clip.items()}
