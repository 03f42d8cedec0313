"""Encode files and their captions into a folder of paired embeddings; a run that was stopped can be resumed.

dlink extract-embeddings clips.csv --out pairs --model laion/clap-htsat-unfused

The source is a `.csv`, `.tsv` or `.jsonl` table, or a folder. Layouts: table (columns path and caption), audiocaps,
clotho, folder (captions in a .txt beside each file), labels (the folder's name is the caption). Files that are missing
or cannot be read are listed in skipped.jsonl with the reason. The same command resumes a run that was stopped, and
`accelerate launch -m dlink_adapter extract-embeddings ...` divides it among processes, with the same result.
"""

import hashlib
import os
import time
import warnings
from pathlib import Path
from typing import Any

from dlink_adapter import PairedEmbeddings
from dlink_adapter.data.alarms import doubts, faults
from dlink_adapter.data.clip_tables import read_clips
from dlink_adapter.extract.encoders import load_encoder
from dlink_adapter.extract.extraction import MARKS, Processes, extract
from dlink_adapter.files import check_own
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
        source: table or folder of clips.
        out: folder for the embeddings.
        encoder: name of an encoder: clap, clip, laion_clap, laion_checkpoint or precomputed.
        model: hub id, folder or file that the encoder loads; for clap also small, which comes with the package.
        revision: branch, tag or commit on the hub.
        layout: table, audiocaps, clotho, folder or labels; by default folder, or the one that has the table's columns.
        media: folder that the table's file names are relative to; by default the folder of the table.
        batch_size: windows, images or captions in a forward pass.
        shard_clips: clips in a shard; a run that is killed loses the shard it was encoding.
        workers: processes that decode; by default one fewer than this process's part of the cores.
    """
    check_own(out, *MARKS)
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
        pairs = PairedEmbeddings.open(out, check_values=False)
        for alarm in faults(pairs) or doubts(pairs):  # what has collapsed cannot be told apart
            warnings.warn(alarm, stacklevel=2)
        print(summary(report, out))
        print(f"took           {time.monotonic() - started:.1f} s")


def _identity(source: Path, layout: str | None, media: Path | None) -> dict[str, str | None]:
    """What identifies the source of a run: the hash of a table, the path of a folder."""
    name = str(source.absolute()) if source.is_dir() else hashlib.sha256(source.read_bytes()).hexdigest()
    return {"name": name, "layout": layout, "media": None if media is None else str(media.absolute())}


def summary(report: dict[str, Any], out: Path) -> str:
    """The report as text, a figure on each line."""
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
