"""A long run in named stages: each is done once, timed, and not done again when the run is started again."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dlink_adapter.files import check_own, keep_settings, write_atomically


class Stages:
    """Runs stages and remembers their results in `folder/stages/<name>.json`.

    `total` is the number of stages, for the headings. Of several processes the one that `leads` shows them and locks
    the folder until it ends.

    Raises FileExistsError on a folder that holds something else, BlockingIOError where another run is at work in it,
    ValueError where it holds a run with other settings.
    """

    def __init__(self, folder: Path, total: int, settings: dict[str, Any], *, leads: bool = True):
        check_own(folder, "stages")
        self.folder, self.total, self.count, self.leads = folder / "stages", total, 0, leads
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        if leads:
            self._lock()
        keep_settings(self.folder / "settings.json", settings, f"{folder} holds a run")

    def _lock(self) -> None:
        self.lock = FileLock(self.folder / ".lock", blocking=False, is_singleton=True)  # one for all in this process
        try:
            self.lock.acquire()
        except Timeout as error:
            raise BlockingIOError(f"another run is at work in {self.folder.parent}: wait for it, or stop it") from error

    def __call__(self, name: str, title: str, work: Callable[[], Any], makes: Path | None = None) -> Any:
        """The JSON result of `work()`, now or from before; `makes`, what it writes, is cleared before it starts."""
        self.count += 1
        record = self.folder / f"{name}.json"
        before = " (done before)" if record.is_file() else ""
        if self.leads:
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
