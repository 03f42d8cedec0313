"""The card of a captioner: what the hub reads, and the lines that its reader copies."""

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from dlink_adapter.captioner.card import captioner_card
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.integrations.causal_lm import new_captioner


@pytest.mark.parametrize("encoder", ["clip", "open_clip"])
def test_the_header(link, encoder):
    link.metadata |= {"license": "mit", "datasets": ["org/sounds"]}
    header = ModelCard(captioner_card(CaptionerConfig("org/llm", encoder="clap"), link, 0)).data
    assert (header.license, header.datasets, header.base_model) == ("mit", ["org/sounds"], "org/llm")
    assert header.pipeline_tag == "audio-text-to-text" and {"audio-captioning", "arxiv:2510.11330"} <= set(header.tags)
    images = ModelCard(captioner_card(CaptionerConfig("../llm", encoder=encoder), link, 0))
    assert images.data.pipeline_tag == "image-to-text" and images.data.base_model is None
    assert "Captions by llm, behind" in images.text and "arXiv:2510.11330" in images.text


def test_its_lines_run(llama, make_link, tmp_path, monkeypatch):
    pytest.importorskip("soundfile").write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    monkeypatch.chdir(tmp_path)
    config = CaptionerConfig(str(llama), hidden=32, tuning="frozen", encoder="clap", encoder_path="small")
    new_captioner(make_link(dim=256), config).save_pretrained(tmp_path)
    example = (tmp_path / "README.md").read_text().split("```python")[1].split("```")[0]
    names = {"array": np.zeros(8_000, np.int16), "rate": 8_000, "embeddings": torch.ones(2, 256)}
    exec(example.replace('"this folder or repository"', '"."'), names)
    assert names["captioner"].settings.encoder == "clap"
