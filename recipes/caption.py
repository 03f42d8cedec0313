"""Caption audio files with a trained captioner.

dlink caption dog.wav street.flac --model dlink-demo

Prints a line a file, its name and its caption with a tab between. A file that cannot be read is named on stderr, the
others are captioned all the same, and the exit code is 1.
"""

import json
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm, trange

from dlink_adapter.atomic import write_atomically
from dlink_adapter.audio import AudioError
from dlink_adapter.encoders import load_encoder
from dlink_adapter.integrations.causal_lm import load_captioner


def main(clips: list[str], *, model: Path, out: Path | None = None, batch_size: int = 32, num_beams: int = 1) -> int:
    """Caption audio files.

    Args:
        clips: audio files: wav, flac, ogg or mp3, any length, rate and number of channels.
        model: folder of a captioner, such as the output of `dlink demo`.
        out: file for the captions as JSONL, {"clip": ..., "caption": ...} a line.
        batch_size: clips that are encoded and captioned together.
        num_beams: beams of the search; 1 is greedy.
    """
    captioner = load_captioner(model)
    if not captioner.settings.encoder:
        raise ValueError(f"{model} does not say which encoder it was trained with: add encoder and encoder_path to it")
    encoder = load_encoder(captioner.settings.encoder, captioner.settings.encoder_path)
    captioner.bridge.check_encoder(encoder.fingerprint)
    lines: list[str] = []
    failed = False
    for start in trange(0, len(clips), batch_size, desc="captions", unit="batch", disable=None):
        names, embeddings = [], []
        for clip in clips[start : start + batch_size]:
            try:
                embeddings.append(encoder.encode_audio([clip]))
                names.append(clip)
            except AudioError as error:
                failed = True
                tqdm.write(f"dlink: error: {error}", file=sys.stderr)
        captions = captioner.generate(torch.cat(embeddings), num_beams=num_beams) if names else []
        for name, caption in zip(names, captions, strict=True):
            tqdm.write(f"{name}\t{caption}", file=sys.stdout)
            lines.append(json.dumps({"clip": name, "caption": caption}, ensure_ascii=False) + "\n")
    if out is not None:
        write_atomically(out, "".join(lines))
    return int(failed)
