"""The README tells the truth: its commands run, its Python runs, its links lead somewhere.

`pip install` and the test command are what CI itself runs; the demo and the trainings run at toy size, everything else
verbatim.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

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


def test_commands_run_one_after_the_other(tmp_path, demo_folder, audiocaps_folder):
    (tmp_path / "dlink-demo").symlink_to(demo_folder)
    (tmp_path / "audiocaps").symlink_to(audiocaps_folder)
    parts = ["--clap", "small", "--llm", "dlink-demo/llama"]
    configs = ["--bridge", "audiocaps/bridge.yaml", "--zero_shot", "audiocaps/text.yaml"]
    shorter = {
        "train-bridge": ["--fit.steps", "2"],
        "train-captioner": ["--training.steps", "2"],
        "study": ["--bridge_steps", "2"],
        "audiocaps": ["--methods", "[raw]", *parts, *configs, "--supervised", "audiocaps/audio.yaml"],
    }
    for command in (command for command in DLINK if not command.startswith("dlink demo")):
        words = shlex.split(command)[1:]
        words += shorter.get(words[0], [])
        run = subprocess.run(
            [sys.executable, "-m", "dlink_adapter", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() or "--out" in words


def tiny_host(folder):
    """What the README loads from the hub, as a tiny model in a folder, with an encoder as wide as the real one."""
    tiny = {"intermediate_size": 64, "num_attention_heads": 2}
    text = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 1, "num_key_value_heads": 2, **tiny}
    vision = CLIPVisionConfig(hidden_size=1024, num_hidden_layers=1, image_size=16, patch_size=8, **tiny)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**text), image_token_index=39)
    LlavaForConditionalGeneration(config).save_pretrained(folder / "llava-hf/llava-1.5-7b-hf")


def test_python_blocks_run(tmp_path, llama, captions, monkeypatch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.projector = nn.Linear(512, 64)

        def forward(self, x):
            return self.projector(x)

    monkeypatch.chdir(tmp_path)  # where the names of the hub are folders
    tiny_host(tmp_path)
    (tmp_path / "HuggingFaceTB").mkdir()
    (tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct").symlink_to(llama)
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(len(captions), 512, generator=draw)
    audio = text + torch.randn(len(captions), 512, generator=draw)
    values = {"audio": audio, "text": text, "captions": captions, "model": Model()}
    shorter = {
        "fit(link, (audio, text))": "fit(link, (audio, text), config=FitConfig(steps=2))",
        "captions, text=text)": "captions, text=text, config=TrainerConfig(steps=1, batch_size=4), progress=False)",
        "caption(audio, ": "caption(audio[:2], max_new_tokens=2, ",
    }
    for kind, block in BLOCKS:
        if kind == "python":
            for long, short in shorter.items():
                block = block.replace(long, short)
            exec(
                "from dlink_adapter import FitConfig\n"
                "from dlink_adapter.training.config import TrainerConfig\n" + block,
                values,
            )
    assert values["text_like"].shape == audio.shape and isinstance(values["model"].projector, nn.Linear)
    saved = {path.parent.name for path in tmp_path.glob("*/*.safetensors")}
    assert saved == {"link", "llava-bridged", "captioner"}


def test_relative_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
