"""Extraction in several processes: who does what, who waits for whom, what is left when one dies."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from dlink_adapter.extract import extraction
from dlink_adapter.extract.encoders import Loaded
from dlink_adapter.extract.extraction import Processes, extract
from dlink_adapter.extract.plan import DIED, DONE, HELD, Plan, hold, state

fork = get_context("fork")


def part(index: int, barrier, answers, *arguments) -> None:
    try:
        extract(*arguments, shard_clips=1, workers=0, processes=Processes(index, barrier.parties, barrier.wait))
    except ChildProcessError as error:
        answers.put(str(error))


def started(*targets) -> list:
    """A process for each (function, its arguments, its options)."""
    team = [fork.Process(target=target, args=args, kwargs=kwargs, daemon=True) for target, args, kwargs in targets]
    for process in team:
        process.start()
    return team


def exit_codes(team: list) -> list[int | None]:
    for process in team:
        process.join(20)
    return [process.exitcode for process in team]


def test_processes_share_the_work_and_the_result_is_the_same(tmp_path, clips, encoder, contents):
    extract(clips, encoder, tmp_path / "one", shard_clips=1, workers=0)
    for _ in range(2):  # the second time there is nothing to do
        barrier = fork.Barrier(3)
        team = started(*((part, (i, barrier, None, clips, encoder, tmp_path / "three"), {}) for i in range(3)))
        assert exit_codes(team) == [0, 0, 0]
        assert contents(tmp_path / "three") == contents(tmp_path / "one")


# The first process writes ten files of the plan, the captions, and its shards; the second three for its first shard.
@pytest.mark.parametrize(("dies", "write", "left"), [(0, 2 * 10, 1), (1, 0, 3), (1, 2 * 2 + 1, 2), (1, 2 * 3, 2)])
def test_a_process_that_dies_ends_the_others(tmp_path, clips, encoder, contents, killed_at, dies, write, left):
    barrier, answers, arguments = fork.Barrier(2), fork.SimpleQueue(), (clips, encoder, tmp_path / "out")
    options = {"shard_clips": 1, "workers": 0, "processes": Processes(dies, 2, barrier.wait)}
    team = started(
        (killed_at, (write, *arguments), options),
        (part, (1 - dies, barrier, answers, *arguments), {}),
    )
    assert exit_codes(team) == [-signal.SIGKILL, 0]
    message = answers.get()
    assert f"process {dies} of 2" in message and f"{left} of its pieces" in message and "run this again" in message
    assert not (tmp_path / "out" / "header.json").exists()

    team = started(*((part, (index, barrier, answers, *arguments), {}) for index in range(2)))
    assert exit_codes(team) == [0, 0] and answers.empty()
    extract(clips, encoder, tmp_path / "whole", shard_clips=1, workers=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def killed_before_the_end(*arguments) -> None:
    extraction.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    extract(*arguments, shard_clips=1, workers=0)


def test_the_plan_stays_until_the_slowest_process_has_read_it(tmp_path, clips, encoder):
    barrier, arguments = fork.Barrier(2), (clips, encoder, tmp_path / "out")
    assert exit_codes(started((killed_before_the_end, arguments, {}))) == [-signal.SIGKILL]
    slow = Processes(1, 2, lambda: (barrier.wait(), time.sleep(1)))
    team = started((extract, arguments, {"shard_clips": 1, "workers": 0, "processes": slow}))
    start = time.monotonic()
    extract(*arguments, shard_clips=1, workers=0, processes=Processes(0, 2, barrier.wait))
    assert time.monotonic() - start > 1
    assert exit_codes(team) == [0] and not (tmp_path / "out" / ".work").exists()


@pytest.mark.parametrize(("ends", "then"), [("finished", DONE), ("killed", DIED)])
def test_a_lock_tells_what_became_of_its_process(tmp_path, ends, then):
    work, ready, finished = tmp_path / "out" / ".work", fork.Event(), fork.Event()
    (other,) = started((hold_lock, (work, ready, finished), {}))
    assert ready.wait(60) and state(work / "process-0.lock") == HELD
    if ends == "killed":
        other.kill()
    else:
        finished.set()
    assert exit_codes([other]) == [0 if ends == "finished" else -signal.SIGKILL]
    assert state(work / "process-0.lock") == then


def hold_lock(work: Path, ready, done) -> None:
    with hold(Plan(work.parent).lock(0)):
        ready.set()
        done.wait(60)


def test_two_runs_into_one_folder(tmp_path, clips, encoder):
    work, ready, done = tmp_path / "out" / ".work", fork.Event(), fork.Event()
    work.mkdir(parents=True)
    team = started((hold_lock, (work, ready, done), {}))
    assert ready.wait(60)
    with pytest.raises(BlockingIOError, match="another process is writing to"):
        extract(clips, encoder, tmp_path / "out", workers=0)
    done.set()
    assert exit_codes(team) == [0]
    assert extract(clips, encoder, tmp_path / "out", workers=0)["clips"] == 4


def test_a_system_without_posix_locks(tmp_path, clips, encoder, monkeypatch):
    modules = ("recipes.caption", "recipes.evaluate", "extract.extraction")
    code = "import sys, importlib; sys.modules['fcntl'] = None\n"
    code += "\n".join(f"importlib.import_module('dlink_adapter.{name}')" for name in modules)
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert imported.returncode == 0, imported.stderr
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ImportError, match="locks its folder with fcntl, which this system lacks: run it on Linux"):
        extract(clips, encoder, tmp_path / "out", workers=0)


def blocked(clips, encoder, out, pids) -> None:
    """Extract with a worker that has more to hand over than a pipe holds, in a process that is killed meanwhile."""
    load = encoder.load

    def told(path):
        pids.put(os.getpid())
        return Loaded(np.repeat(load(path).features, 1 << 16, axis=0))

    encoder.load = told
    encoder.encode_audio = lambda loaded: next(iter(loaded)) and os.kill(os.getpid(), signal.SIGKILL)
    extract(clips, encoder, out, workers=1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's states of processes")
def test_workers_do_not_outlive_a_process_that_is_killed(tmp_path, clips, encoder):
    pids = fork.SimpleQueue()
    good = [clips[number] for number in (0, 1, 3, 6)]
    team = [fork.Process(target=blocked, args=(good, encoder, tmp_path / "out", pids))]
    team[0].start()
    worker = pids.get()
    assert exit_codes(team) == [-signal.SIGKILL]
    deadline, status = time.monotonic() + 4, Path(f"/proc/{worker}/stat")
    while (stays := status.exists() and status.read_text().split()[2] != "Z") and time.monotonic() < deadline:
        time.sleep(0.05)
    if stays:
        os.kill(worker, signal.SIGKILL)  # it would hold the output of the tests open
    assert not stays
