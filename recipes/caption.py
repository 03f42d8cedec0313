"""Caption audio with a trained captioner: files, folders of them, or embeddings made before.

dlink caption dog.wav street.flac --model dlink-demo
dlink caption recordings --model dlink-demo --out said.jsonl

dlink caption recordings --model dlink-demo --candidates 8 --min_confidence 0.3

Prints a line a clip, its name and its caption with a tab between. With `--json` it is a JSON object with all candidates
and, if the captioner was calibrated (`dlink calibrate`), a confidence in [0, 1]. A folder stands for the audio files
below it or, if `dlink extract-embeddings` made it, for its clips, which go by their ids. A file that cannot be read is
named on stderr, the others are captioned all the same, and the exit code is 1. `dlink evaluate` scores what `--out`
writes.
"""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dlink_adapter import Captioner, PairedEmbeddings
from dlink_adapter.captioner.candidates import seeds_from
from dlink_adapter.captioner.model import Captioned
from dlink_adapter.data.clip_tables import AUDIO, files_below
from dlink_adapter.extract.encoders import UnreadableError
from dlink_adapter.files import printable, to_jsonl, write_atomically
from dlink_adapter.training.processes import process_state

Batch = tuple[list[str], Tensor]  # names, embeddings


def main(
    clips: list[str],
    *,
    model: Path,
    out: Path | None = None,
    batch_size: int = 32,
    num_beams: int = 1,
    candidates: int = 1,
    choose: Literal["encoder", "mbr", "likelihood"] = "encoder",
    source: Literal["beams", "sampling", "draws", "draws_and_sampling"] = "beams",
    seed: int = 0,
    min_confidence: float | None = None,
    json: bool = False,
) -> int:
    """Caption audio.

    Args:
        clips: audio files (wav, flac, ogg, mp3; of up to an hour), folders of them, or folders of paired embeddings.
        model: folder of a captioner, such as the output of `dlink demo`.
        out: file for the captions as JSONL, {"clip": ..., "caption": ...} a line.
        batch_size: clips that are encoded and captioned together.
        num_beams: beams of the search for a single candidate; 1 is greedy.
        candidates: captions of each clip to choose one from.
        choose: encoder, the candidate whose text embedding is nearest to the bridged audio; mbr, the one nearest to all
            others; likelihood, the likeliest to the language model.
        source: of the candidates: beams or sampling of the language model, draws of the bridge, or both of these.
        seed: of sampling and draws.
        min_confidence: mark captions of which the captioner is less sure.
        json: print JSON.
    """
    captioner = _ready(model, min_confidence)
    unreadable: list[str] = []
    batches, total = _batches(clips, captioner, batch_size, unreadable)
    asked: dict[str, Any] = {"num_beams": num_beams} if candidates == 1 else {}
    if in_full := candidates > 1 or json or min_confidence is not None:
        asked |= {"candidates": candidates, "choose": choose, "source": source, "return_all": True}
    said: list[dict[str, Any]] = []
    with tqdm(desc="captions", total=total, unit="clip", disable=None) as bar:
        for names, embeddings in batches:
            asked |= {"seed": seeds_from(seed, len(said), len(names))} if in_full else {}
            captions = captioner.caption(embeddings, batch_size=batch_size, **asked)
            for name, found in zip(names, captions, strict=True):
                line = {"clip": name, **(_in_full(found, min_confidence) if in_full else {"caption": found})}
                tqdm.write(to_jsonl([line]).strip() if json else _text(line), file=sys.stdout)
                said.append(line)
            bar.update(len(names))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, to_jsonl(said))
    return int(bool(unreadable))


def _ready(model: Path, min_confidence: float | None) -> Captioner:
    captioner = Captioner.from_pretrained(model)
    if min_confidence is not None and captioner.confidence is None:
        raise ValueError(f"{model} has no calibrated confidence: dlink calibrate {model} --val PAIRS")
    # A quantised one is where it runs.
    return captioner if captioner.settings.quantize else captioner.to(process_state().device)


def _batches(
    clips: list[str], captioner: Captioner, batch_size: int, unreadable: list[str]
) -> tuple[Iterator[Batch], int]:
    """Batches of all clips, files before embeddings, and how many clips there are."""
    folders = [Path(clip) for clip in clips if Path(clip, "header.json").is_file()]
    files = list(chain(*(_files(clip) for clip in clips if Path(clip) not in folders)))
    embedded = [_opened(folder, captioner) for folder in folders]
    of_files = _of_files(files, captioner, batch_size, unreadable)
    batches = chain(of_files, *(_of_pairs(pairs, batch_size) for pairs in embedded))
    return batches, len(files) + sum(pairs.clips for pairs in embedded)


def _in_full(found: Captioned, least: float | None) -> dict[str, Any]:
    """A caption, its candidates and, as far as there is one, its confidence, marked where it is below the least."""
    line: dict[str, Any] = {"caption": found.caption, "candidates": found.candidates}
    if found.confidence is not None:
        line["confidence"] = round(found.confidence, 4)
        if least is not None and found.confidence < least:
            line["unsure"] = True
    return line


def _text(line: dict[str, Any]) -> str:
    parts = [printable(line["clip"]), printable(line["caption"])]
    return "\t".join([*parts, f"unsure: {line['confidence']:.2f}"] if "unsure" in line else parts)


def _files(clip: str) -> list[str]:
    if not Path(clip).is_dir():
        return [clip]
    found = [str(path) for path in files_below(Path(clip), AUDIO)]
    if not found:
        raise ValueError(f"{clip} holds no audio files ({', '.join(AUDIO)})")
    return found


def _opened(folder: Path, captioner: Captioner) -> PairedEmbeddings:
    pairs = PairedEmbeddings.open(folder)
    captioner.bridge.check_encoder(pairs.metadata.get("fingerprint", "an unknown encoder"))
    return pairs


def _of_files(files: list[str], captioner: Captioner, batch_size: int, unreadable: list[str]) -> Iterator[Batch]:
    for start in range(0, len(files), batch_size):
        names, loaded = [], []
        for file in files[start : start + batch_size]:
            try:
                loaded.append(captioner.encoder.load(file))
                names.append(file)
            except UnreadableError as error:
                unreadable.append(file)
                tqdm.write(f"dlink: error: {printable(error)}", file=sys.stderr)
        if names:
            yield names, captioner.embed(loaded)


def _of_pairs(pairs: PairedEmbeddings, batch_size: int) -> Iterator[Batch]:
    names = pairs.ids
    for rows in torch.arange(pairs.clips).split(batch_size):
        yield [names[row] for row in rows], pairs.select(rows).audio.float()
