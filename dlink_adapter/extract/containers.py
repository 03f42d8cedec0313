"""Whether the file of a recording ends where its container says. libsndfile silently shortens one that was cut."""

import math
from pathlib import Path

STREAMED = 0x7FFF0000  # bytes and above: what programs write that cannot go back to the header
LAST_PAGES = 1 << 17  # bytes: a page of Ogg has at most 65,307


def lost_share(path: Path) -> float:
    """How much of a file is missing, as a share of what is there: 0 where it is whole, infinity where nobody knows.

    Of a RIFF (wav) or FORM (aiff) file the header tells the size; an Ogg file (Vorbis, Opus) is cut where its last page
    is not complete. Other formats, and files that were written as a stream, give 0.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == b"OggS":
            file.seek(max(0, size - LAST_PAGES))
            return 0.0 if _ends_with_a_page(file.read()) else math.inf
    if head[:4] not in (b"RIFF", b"FORM"):
        return 0.0
    promised = int.from_bytes(head[4:], "little" if head[:4] == b"RIFF" else "big")
    return max(0.0, (promised + len(head)) / size - 1) if promised < STREAMED else 0.0


def _ends_with_a_page(tail: bytes) -> bool:
    """Whether the last page of Ogg is complete: a header of 27 bytes, its segments' sizes, and the segments."""
    page = tail[tail.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) > 26 and len(page) >= 27 + page[26] + sum(sizes)
