"""The end of an extraction: shards get their final names, and the report is written into the header."""

import json
import os
from typing import Any

from safetensors.torch import load_file

from dlink_adapter.bridge.space import mean_pairwise_cosine
from dlink_adapter.data.shards import MappedShard, shard_files, write_header
from dlink_adapter.extract.plan import Plan
from dlink_adapter.files import to_jsonl, write_atomically


def finish(plan: Plan, settings: dict[str, Any]) -> None:
    """Give the shards their final names and write the header, with which the folder is complete."""
    records = [json.loads(plan.record(piece).read_text(encoding="utf-8")) for piece in range(len(plan.clips))]
    unreadable = [entry for record in records for entry in record["skipped"]]
    full = [piece for piece, record in enumerate(records) if record["clips"]]
    if not full:
        raise ValueError(f"none of the {len(unreadable)} files can be used; the first: {unreadable[0]['reason']}")
    shards = []
    for number, piece in enumerate(full):
        named = shard_files(plan.out, number, len(full))
        for made, path in zip(plan.shard_files(piece), named, strict=True):
            if made.exists():  # otherwise a run that was killed has renamed it
                os.replace(made, path)
        shards.append(MappedShard(*named))
    missing = plan.missing
    report = {"clips": sum(record["clips"] for record in records), "missing": len(missing)}
    report |= {"unreadable": len(unreadable), **_statistics(records), **_towers(plan, shards)}
    counts = [{name: records[piece][name] for name in ("clips", "captions")} for piece in full]
    write_atomically(plan.work / "skipped.jsonl", to_jsonl(missing + unreadable))
    write_header(plan.work, shards[0].tensors["audio"], counts, {**settings, "report": report})
    for name in ("skipped.jsonl", "header.json"):
        os.replace(plan.work / name, plan.out / name)


def _statistics(records: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [value for record in records for value in record["seconds"]]
    captions = [value for record in records for value in record["captions_a_clip"]]
    return {
        "captions_a_clip": _spread(captions),
        "hours": round(sum(seconds) / 3600, 4),
        "seconds_a_clip": _spread(seconds),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(sum(values) / len(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _towers(plan: Plan, shards: list[MappedShard]) -> dict[str, Any]:
    audio = (shard.tensors["audio"] for shard in shards)
    texts = (load_file(plan.text_file(piece))["text"] for piece in range(len(plan.texts)))
    towers = {"audio": mean_pairwise_cosine(audio), "text": mean_pairwise_cosine(texts)}
    return {"mean_pairwise_cosine": {name: value and round(value, 5) for name, value in towers.items()}}
