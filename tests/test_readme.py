"""The README tells the truth: its commands run, its Python runs, its links lead somewhere.

`pip install` and the test command are what CI itself runs; the demo runs at toy size, everything else verbatim.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dlink_adapter.cli import list_recipes

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line.strip()]
DLINK = [part.strip() for line in COMMANDS for part in line.split("&&") if part.strip().startswith("dlink ")]


def test_every_command_is_one_that_is_tested():
    for part in (part.strip() for line in COMMANDS for part in line.split("&&")):
        assert part.startswith(("python3.11 -m venv", ". .venv/bin/activate", "pip install", "pytest", "dlink ")), part
    assert any(re.match(r"pip install .*&& *pytest$", line) for line in COMMANDS)
    assert {shlex.split(command)[1] for command in DLINK} <= set(list_recipes())


@pytest.mark.parametrize("command", [command for command in DLINK if not command.startswith("dlink demo")])
def test_commands_run_where_the_demo_left_them(command, tmp_path, demo_folder):
    (tmp_path / "dlink-demo").symlink_to(demo_folder)
    run = subprocess.run(
        [sys.executable, "-m", "dlink_adapter", *shlex.split(command)[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_python_blocks_run(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.projector = nn.Linear(512, 64)

        def forward(self, x):
            return self.projector(x)

    draw = torch.Generator().manual_seed(0)
    text = torch.randn(40, 512, generator=draw)
    values = {"audio": text + torch.randn(40, 512, generator=draw), "text": text, "model": Model()}
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for kind, block in BLOCKS:
            if kind == "python":
                short = block.replace("fit(link, (audio, text))", "fit(link, (audio, text), config=FitConfig(steps=2))")
                exec("from dlink_adapter import FitConfig\n" + short, values)
    finally:
        os.chdir(here)
    assert values["text_like"].shape == (40, 512) and (tmp_path / "link" / "model.safetensors").is_file()
    assert isinstance(values["model"].projector, nn.Linear)


def test_relative_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
