"""Hugging Face transformers, small and untrained: cut without options, proven, and saved as they are saved."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import surgeon
from models.transformers import SMALL
from surgeon.cut import choose
from surgeon.export import export_onnx
from surgeon.trace.tensors import output_tensors

pytest.importorskip("transformers")

# the outputs hold the width (hidden states are returned beside the logits)
WIDTH_IS_OUTPUT = {"t5", "bart", "whisper", "clip", "detr", "rt_detr_v2"}
# their own class cannot run the cut: its forward works sizes out of others
# what their class computes from a config of the new sizes is what the cut model computes
CONFIGURED = {
    "bert", "bert_mlm", "distilbert", "roberta", "albert", "electra", "opt", "t5", "vit", "deit",
    "swin", "beit", "convnext", "segformer", "mamba",
}  # fmt: skip
# the same once whole heads go: angles, or scales, follow from what a head holds
BY_HEADS = {"llama", "qwen2", "qwen3", "mixtral", "gpt_neox", "phi", "phi3", "gpt2", "deberta_v2"}


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
    assert type(result.model) is type(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def _counted(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    return lambda *args: (calls.append(args), function(*args))[1]


def test_what_ties_its_heads_to_its_width_is_cut_elsewhere(monkeypatch: pytest.MonkeyPatch):
    """LED's forward makes heads x head_dim the width of what comes in, and asks numbers of its mask, which torch.export
    refuses: what its attention ties stays, and the rest goes."""
    from transformers import LEDConfig, LEDForConditionalGeneration

    widths = {"encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "d_model": 32, "vocab_size": 20}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "attention_window": [16]}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    places = {"max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32}
    torch.manual_seed(0)
    model = LEDForConditionalGeneration(LEDConfig(**widths, **heads, **layers, **places))
    inputs = {
        "input_ids": torch.arange(3, 19).repeat(2, 1),
        "decoder_input_ids": torch.arange(3, 9).repeat(2, 1),
    }
    exports = []
    monkeypatch.setattr(choose, "cut_program", _counted(choose.cut_program, exports))
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert len(exports) == 1  # refused once, and not asked again
    assert result.way == "module"
    assert result.check is not None and result.check.error < 1e-12
    assert {g.name.partition(".")[2]: g.kept for g in result.plan.groups} == {
        "encoder.layers.0.fc1": 48,
        "decoder.layers.0.fc1": 48,
    }
    held = {x.name.partition(".")[2]: x.why for x in result.plan.left if "surgery" in x.why}
    attention = {f"decoder.layers.0.{a}" for a in ("self_attn", "encoder_attn")}
    attention |= {"encoder.layers.0.self_attn.longformer_self_attn"}  # one head_dim for q and v
    assert {name.rpartition(".")[0] for name in held} == attention
    assert all("neither surgery follows aten." in why for why in held.values())
    assert all("(modeling_led.py:" in why for why in held.values())


def _tokens(model: nn.Module) -> list[int | None]:
    return [getattr(model.config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]


@pytest.mark.parametrize("name", sorted(CONFIGURED | BY_HEADS))
def test_the_config_follows_and_the_folder_opens_again(name: str, tmp_path: Path):
    model, inputs = SMALL[name]()
    said = model.config.to_dict()
    tokens = _tokens(model)  # 1 and 2, which are sizes, too
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert not [note for note in result.notes if "config says the original's" in note]
    result.model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, inputs), logits(result.model, inputs))
    assert model.config.to_dict() == said
    assert again.config.to_dict() != said
    assert _tokens(again) == tokens
    by_heads = [note for note in result.notes if "so heads go instead" in note]
    assert bool(by_heads) == (name in BY_HEADS)


@pytest.mark.parametrize("name", ["bert", "vit", "roberta", "gpt2"])
def test_where_the_width_is_heads_times_head_dim_the_config_follows_at_any_ratio(
    name: str, tmp_path: Path
):
    model, inputs = SMALL[name]()
    result = surgeon.shrink(model, inputs, ratio=0.3, round_to=1, measure=False)
    assert 0.25 <= 1 - result.model.config.hidden_size / model.config.hidden_size <= 0.5
    result.model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, inputs), logits(result.model, inputs))


def test_a_last_width_is_worked_out_anew():
    model, inputs = SMALL["swin"]()
    config = surgeon.shrink(model, inputs, ratio=0.5, measure=False).model.config
    assert (config.embed_dim, config.hidden_size) == (12, 24)


def test_a_config_is_not_worth_much_less():
    """One head, which cannot go: with head_dim whole, half of the attention goes instead of three quarters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=32, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=64, max_position_embeddings=32,
    )  # fmt: skip
    model, inputs = LlamaForCausalLM(config).eval(), {"input_ids": torch.arange(6)[None]}
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert result.model.model.layers[0].self_attn.q_proj.out_features == 32
    assert result.model.config.to_dict() == model.config.to_dict()


def test_where_layers_compete_the_config_is_not_asked():
    model, inputs = SMALL["llama"]()
    result = surgeon.shrink(model, inputs, ratio=0.4, scope="global", measure=False)
    assert result.model.config.to_dict() == model.config.to_dict()
    assert not any("so heads go instead" in note for note in result.notes)


def test_where_no_plan_is_said_it_is_the_first():
    model, inputs = SMALL["dinov2"]()
    result = surgeon.shrink(model, inputs, ratio=0.5, measure=False)
    assert result.plan.keep == surgeon.propose(model, inputs, 0.5).plan.keep
    assert any("no config builds" in note for note in result.notes)
    assert not any("so heads go instead" in note for note in result.notes)


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
    result = surgeon.shrink(
        model, inputs, ratio=0.5, cut=["head_dim", "mlp", "width"], measure=False
    )
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


def test_a_mixture_of_experts_is_exported(tmp_path: Path):
    """transformers has an op of its own for it, which torch's exporter does not know."""
    model, inputs = SMALL["mixtral"]()
    slim = surgeon.shrink(model, inputs, ratio=0.5, measure=False).model
    file = export_onnx(slim, tmp_path / "slim.onnx", inputs)
    assert file.dynamic_batch
    assert file.worst_error < 1e-5
