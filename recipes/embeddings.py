"""Print what a folder of paired embeddings holds.

dlink embeddings info dlink-demo/embeddings/pairs
"""

from pathlib import Path
from typing import Literal

from dlink_adapter import PairedEmbeddings
from dlink_adapter.data.shards import read_header
from dlink_adapter.recipes.extract_embeddings import summary


def main(action: Literal["info"], folder: Path) -> None:
    """Print what a folder of paired embeddings holds, after reading and checking every row.

    Args:
        action: what to do; info is all there is.
        folder: what `dlink extract-embeddings` or `PairedEmbeddings.save` wrote.
    """
    header, pairs = read_header(folder), PairedEmbeddings.open(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"pairs          {len(pairs)}")
    print(f"clips          {pairs.clips}")
    print(f"embeddings     dim {pairs.dim}, {header['dtype']}, {len(header['shards'])} shards, {size / 2**20:.1f} MiB")
    for name, value in pairs.metadata.items():
        if name != "report":
            print(f"{name:<14} {value}")
    if "report" in pairs.metadata:
        print(summary(pairs.metadata["report"], folder))
