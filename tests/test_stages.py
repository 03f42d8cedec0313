"""Stages of a long run: done once, remembered, done again after a kill."""

import json

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
