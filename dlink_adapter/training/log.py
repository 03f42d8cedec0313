"""log.jsonl: a line every so many steps of a training, the same whether the run was killed in between or not."""

import json
from pathlib import Path

from dlink_adapter.files import read_jsonl, to_jsonl, write_atomically

LOG = "log.jsonl"


class LossLog:
    """The log of a training in a folder."""

    def __init__(self, folder: str | Path, name: str = LOG):
        self.path = Path(folder, name)

    def rewind(self, step: int) -> None:
        """Drop the lines that a killed run wrote after `step`, from which it goes on."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            complete = (line for line in lines if line.endswith("\n"))
            write_atomically(self.path, "".join(line for line in complete if json.loads(line)["step"] <= step))

    def write(self, step: int, **values: float) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_jsonl([{"step": step, **values}]))

    def read(self) -> list[dict[str, float]]:
        """All lines; none where a training was over before the first."""
        return read_jsonl(self.path) if self.path.is_file() else []
