"""Stages of a long run: done once, remembered, done again after a kill."""

import json
import subprocess
import sys

import pytest

from dlink_adapter.stages import Stages


def test_a_stage_is_done_once_and_its_result_kept(tmp_path):
    calls = []
    for _ in range(2):
        stages = Stages(tmp_path, 1, {"seed": 0})
        assert stages("one", "first", lambda: calls.append(1) or {"found": 3}) == {"found": 3}
        assert stages.seconds["one"] >= 0
    assert calls == [1]


def test_what_a_killed_stage_left_is_cleared(tmp_path):
    made = tmp_path / "made"

    def work():
        made.mkdir()
        (made / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, 1, {})("one", "first", work, made)
    Stages(tmp_path, 1, {})("one", "first", made.mkdir, made)
    assert list(made.iterdir()) == []


def test_other_settings_are_refused(tmp_path):
    Stages(tmp_path, 1, {"seed": 0})
    with pytest.raises(ValueError, match="other settings"):
        Stages(tmp_path, 1, {"seed": 1})
    assert json.loads((tmp_path / "stages" / "settings.json").read_text()) == {"seed": 0}


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds README.md"):
        Stages(tmp_path, 1, {})
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_two_runs_at_once_are_refused(tmp_path):
    code = (
        f"from pathlib import Path; from dlink_adapter.stages import Stages; Stages(Path({str(tmp_path)!r}), 1, {{}})"
    )
    stages = Stages(tmp_path, 1, {})
    Stages(tmp_path, 2, {})  # another part of the same run
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"BlockingIOError: another run is at work in {tmp_path}: wait for it, or stop it" in second.stderr
    del stages
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
