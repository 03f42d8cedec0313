"""Caption audio with a trained captioner: files, folders of them, or embeddings made before.

dlink caption dog.wav street.flac --model dlink-demo
dlink caption recordings --model dlink-demo --out said.jsonl

Prints a line a clip, its name and its caption with a tab between. A folder stands for the audio files below it, or, if
`dlink extract-embeddings` made it, for its clips, which go by their ids. A file that cannot be read is named on stderr,
the others are captioned all the same, and the exit code is 1. `dlink evaluate` scores what `--out` writes.
"""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dlink_adapter import Captioner, PairedEmbeddings
from dlink_adapter.data.clip_tables import AUDIO, files_below
from dlink_adapter.extract.encoders import UnreadableError
from dlink_adapter.files import to_jsonl, write_atomically
from dlink_adapter.training.processes import process_state

Batch = tuple[list[str], Tensor]  # names, embeddings


def main(clips: list[str], *, model: Path, out: Path | None = None, batch_size: int = 32, num_beams: int = 1) -> int:
    """Caption audio.

    Args:
        clips: audio files (wav, flac, ogg or mp3, any length, rate and number of channels), folders of them, or folders
            of paired embeddings.
        model: folder of a captioner, such as the output of `dlink demo`.
        out: file for the captions as JSONL, {"clip": ..., "caption": ...} a line.
        batch_size: clips that are encoded and captioned together.
        num_beams: beams of the search; 1 is greedy.
    """
    captioner = Captioner.from_pretrained(model)
    if captioner.settings.quantize is None:  # else it is where it runs
        captioner.to(process_state().device)
    folders = [Path(clip) for clip in clips if Path(clip, "header.json").is_file()]
    files = list(chain(*(_files(clip) for clip in clips if Path(clip) not in folders)))
    embedded = [_opened(folder, captioner) for folder in folders]
    batches = [_of_pairs(pairs, batch_size) for pairs in embedded]
    unreadable: list[str] = []
    if files:
        batches.insert(0, _of_files(files, captioner, batch_size, unreadable))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    said = []
    with tqdm(desc="captions", total=len(files) + sum(p.clips for p in embedded), unit="clip", disable=None) as bar:
        for names, embeddings in chain(*batches):
            captions = captioner.generate(embeddings, batch_size=batch_size, num_beams=num_beams)
            for name, caption in zip(names, captions, strict=True):
                tqdm.write(f"{name}\t{caption}", file=sys.stdout)
                said.append({"clip": name, "caption": caption})
            bar.update(len(names))
    if out is not None:
        write_atomically(out, to_jsonl(said))
    return int(bool(unreadable))


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
                tqdm.write(f"dlink: error: {error}", file=sys.stderr)
        if names:
            yield names, captioner.embed(loaded)


def _of_pairs(pairs: PairedEmbeddings, batch_size: int) -> Iterator[Batch]:
    names = pairs.ids
    for rows in torch.arange(pairs.clips).split(batch_size):
        yield [names[row] for row in rows], pairs.select(rows).audio.float()
