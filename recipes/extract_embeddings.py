"""Encode files and their captions into a folder of paired embeddings, resumable at any moment.

dlink extract-embeddings clips.csv --out pairs --model laion/clap-htsat-unfused

The source is a `.csv`, `.tsv` or `.jsonl` table, or a folder. Layouts: table (columns path and caption), audiocaps,
clotho, folder (captions in a .txt beside each file), labels (the folder's name is the caption). Files that are missing
or cannot be read are listed in skipped.jsonl with the reason. A run that was stopped goes on when it is started again,
and `accelerate launch -m dlink_adapter extract-embeddings ...` shares it among processes, with the same result.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from dlink_adapter.data.clip_tables import read_clips
from dlink_adapter.extract.encoders import load_encoder
from dlink_adapter.extract.extraction import Processes, extract
from dlink_adapter.training.processes import process_state


def main(
    source: Path,
    *,
    out: Path,
    encoder: str = "clap",
    model: str = "laion/clap-htsat-unfused",
    revision: str | None = None,
    layout: str | None = None,
    media: Path | None = None,
    batch_size: int = 32,
    shard_clips: int = 8192,
    workers: int | None = None,
) -> None:
    """Extract embeddings.

    Args:
        source: table or folder that names the clips.
        out: folder for the embeddings.
        encoder: name of an encoder: clap, clip, laion_clap, laion_checkpoint or precomputed.
        model: hub id, folder or file that the encoder loads.
        revision: branch, tag or commit on the hub.
        layout: table, audiocaps, clotho, folder or labels; by default folder, or what the table's columns say.
        media: folder that the table's file names are relative to; the table's own by default.
        batch_size: windows, images or captions a forward pass.
        shard_clips: clips a shard, which is what a kill can cost.
        workers: processes that decode; one fewer than there are cores for each process by default.
    """
    state = process_state()
    clips = read_clips(source, layout, media) if state.is_main_process else []
    loaded = load_encoder(encoder, model, revision=revision, device=state.device, batch_size=batch_size)
    if workers is None:
        workers = max(1, (os.cpu_count() or 1) // state.num_processes - 1)
    started = time.monotonic()
    report = extract(
        clips,
        loaded,
        out,
        settings={"encoder": encoder, "batch_size": batch_size, "source": _identity(source, layout, media)},
        shard_clips=shard_clips,
        workers=workers,
        processes=Processes(state.process_index, state.num_processes, state.wait_for_everyone),
    )
    if report is not None:
        print(summary(report, out))
        print(f"took           {time.monotonic() - started:.1f} s")


def _identity(source: Path, layout: str | None, media: Path | None) -> dict[str, str | None]:
    """What must be the same for a run to go on: a table's content, a folder's place."""
    name = str(source.absolute()) if source.is_dir() else hashlib.sha256(source.read_bytes()).hexdigest()
    return {"name": name, "layout": layout, "media": None if media is None else str(media.absolute())}


def summary(report: dict[str, Any], out: Path) -> str:
    """The report in lines."""
    captions, seconds, cosine = (report[name] for name in ("captions_a_clip", "seconds_a_clip", "mean_pairwise_cosine"))
    skipped = report["missing"] + report["unreadable"]
    lines = [
        f"clips          {report['clips']}",
        f"missing        {report['missing']}",
        f"unreadable     {report['unreadable']}{f', see {out}/skipped.jsonl' if skipped else ''}",
        f"captions/clip  {captions['mean']} ({captions['min']} to {captions['max']})",
        f"audio          {report['hours']} h, {seconds['mean']} s a clip ({seconds['min']} to {seconds['max']})",
        f"mean cosine    {cosine['audio']} between clips, {cosine['text']} between distinct captions",
    ]
    return "\n".join(lines)
