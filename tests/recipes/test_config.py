"""`dlink config`: the packaged configs are listed, shown and copied, and nothing is overwritten."""

import pytest

from dlink_adapter.cli import main
from dlink_adapter.recipes import config


def test_all_are_listed_with_their_commands(capsys):
    assert main(["config", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.name for path in config.FOLDER.glob("*.yaml"))
    assert all(f"--config {line.split()[0]} " in line and line.split()[1] == "dlink" for line in lines)


def test_shown_as_it_is(capsys):
    assert main(["config", "show", "measure_gap.yaml"]) == 0
    assert capsys.readouterr().out == (config.FOLDER / "measure_gap.yaml").read_text()


def test_a_copy_is_for_changing_and_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["config", "cp", "measure_gap.yaml", "audiocaps_bridge.yaml"]) == 0
    assert capsys.readouterr().out == "measure_gap.yaml\naudiocaps_bridge.yaml\n"
    (tmp_path / "measure_gap.yaml").write_text("folds: 2\n")
    with pytest.raises(FileExistsError, match=r"measure_gap\.yaml is there already"):
        config.main("cp", "measure_gap.yaml")
    assert (tmp_path / "measure_gap.yaml").read_text() == "folds: 2\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("show",), r"show and cp take one or more \(0 names"),
        (("ls", "measure_gap.yaml"), "ls takes no name"),
        (("cp", "x"), r"unknown: x\); known: ablate_depth\.yaml, "),
    ],
)
def test_wrong_names(call, said):
    with pytest.raises(ValueError, match=said):
        config.main(*call)
