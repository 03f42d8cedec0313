"""A long run in named stages: each is done once, timed, and not done again when the run is started again."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlink_adapter.files import keep_settings, write_atomically


class Stages:
    """Runs stages and remembers their results in `folder/stages/<name>.json`.

    `total` is the number of stages, for the headings, which of several processes one is enough to `show`. A folder that
    holds a run with other `settings` is refused with a ValueError.
    """

    def __init__(self, folder: Path, total: int, settings: dict[str, Any], *, show: bool = True):
        self.folder, self.total, self.count, self.show = folder / "stages", total, 0, show
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        keep_settings(self.folder / "settings.json", settings, f"{folder} holds a run")

    def __call__(self, name: str, title: str, work: Callable[[], Any], makes: Path | None = None) -> Any:
        """The JSON result of `work()`, now or from before; `makes`, what it writes, is cleared before it starts."""
        self.count += 1
        record = self.folder / f"{name}.json"
        before = " (done before)" if record.is_file() else ""
        if self.show:
            print(f"[{self.count}/{self.total}] {title}{before}", file=sys.stderr, flush=True)
        if not before:
            if makes is not None and makes.exists():
                shutil.rmtree(makes)
            start = time.monotonic()
            result = work()
            seconds = round(time.monotonic() - start, 1)
            write_atomically(record, json.dumps({"seconds": seconds, "result": result}, indent=2))
        kept = json.loads(record.read_text(encoding="utf-8"))
        self.seconds[name] = kept["seconds"]
        return kept["result"]
