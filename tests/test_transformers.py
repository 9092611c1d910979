"""Hugging Face transformers, small and untrained: cut without options, proven, and saved as they are saved."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgeon
from models.transformers import SMALL
from surgeon.trace.tensors import output_tensors

pytest.importorskip("transformers")

# the outputs hold the width (hidden states are returned beside the logits)
WIDTH_IS_OUTPUT = {"t5", "bart", "whisper", "clip", "detr", "rt_detr_v2"}
# their own class cannot run the cut: its forward works sizes out of others
PROGRAMS = {"gpt_neox", "phi", "phi3", "swinv2", "deberta_v2", "rt_detr_v2"}
# what their class computes from a config of the new sizes is what the cut model computes
CONFIGURED = {
    "bert", "bert_mlm", "distilbert", "roberta", "albert", "electra", "opt", "t5", "vit", "deit",
    "swin", "beit", "convnext", "segformer", "mamba",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """transformers says much on stderr."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def logits(model: nn.Module, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return output_tensors(model(**inputs))[0]


@pytest.mark.parametrize("name", SMALL)
def test_every_model_is_cut_in_half_and_proven(name: str):
    model, inputs = SMALL[name]()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert result.check is not None
    size = [sum(p.numel() for p in m.parameters()) for m in (model, result.model)]
    assert size[1] < (0.65 if name in WIDTH_IS_OUTPUT else 0.4) * size[0]
    if name in PROGRAMS:
        assert result.way == "program"
    else:
        assert type(result.model) is type(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(CONFIGURED))
def test_the_config_follows_and_the_folder_opens_again(name: str, tmp_path: Path):
    model, inputs = SMALL[name]()
    said = model.config.to_dict()
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert not [note for note in result.notes if "config" in note]
    result.model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, inputs), logits(result.model, inputs))
    assert model.config.to_dict() == said
    assert again.config.to_dict() != said


@pytest.mark.parametrize("name", ["qwen3", "mixtral", "gpt_neox", "phi3"])
def test_rotary_models_follow_where_head_dim_stays(name: str, tmp_path: Path):
    model, inputs = SMALL[name]()
    result = surgeon.shrink(model, inputs, ratio=0.5, cut=["heads", "mlp", "width"], measure=False)
    assert result.model.config.num_attention_heads == 2
    result.model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, inputs), logits(result.model, inputs))


def test_a_config_that_cannot_say_the_cut_is_left_alone():
    model, inputs = SMALL["llama"]()
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert result.model.config.to_dict() == model.config.to_dict()
    (note,) = (note for note in result.notes if "config" in note)
    assert "rotary_emb.inv_freq" in note


def test_the_slim_file_fills_a_fresh_model_of_the_original_config(tmp_path: Path):
    model, inputs = SMALL["bert"]()
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    surgeon.save(result, tmp_path / "slim.pth")
    filled = surgeon.load(tmp_path / "slim.pth", model=SMALL["bert"]()[0])
    assert torch.equal(logits(filled, inputs), logits(result.model, inputs))
    assert filled.config.to_dict() == result.model.config.to_dict()


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_onnx_takes_the_keywords(name: str, tmp_path: Path):
    model, inputs = SMALL[name]()
    slim = surgeon.shrink(model, inputs, ratio=0.5, check=False, measure=False).model
    file = surgeon.export_onnx(slim, tmp_path / "slim.onnx", inputs)
    assert file.outputs_equal
    assert slim.config.use_cache is model.config.use_cache
