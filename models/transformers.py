"""Hugging Face transformers from small configs with random weights; nothing is downloaded.

`SMALL` maps a name to a function that gives (model, example inputs). Two layers each, and sizes that differ
wherever they mean different things, so that no two are equal by accident.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, KV, INNER, VOCAB, LAYERS, PLACES, TOKENS = 48, 4, 2, 80, 99, 2, 40, 10

# the same things as the older configs call them
_BERT = {
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "max_position_embeddings": PLACES,
    "num_labels": 5,
}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": KV, "pad_token_id": 0}
_SEEN = {
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "image_size": 32, "patch_size": 8, "num_labels": 5,
}  # fmt: skip
_SPOKEN = {
    "d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER,
}  # fmt: skip
_HEARD = {
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "conv_dim": (24, 28, 32), "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3), "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    "vocab_size": VOCAB,
}  # fmt: skip

Case = tuple[nn.Module, Any]


def words(length: int = TOKENS, seed: int = 0) -> Tensor:
    """i64[2, length] token ids, none of them a special one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCAB - 4, (2, length), generator=generator)


def text() -> dict[str, Tensor]:
    """Token ids and a mask that hides nothing."""
    return {"input_ids": words(), "attention_mask": torch.ones(2, TOKENS, dtype=torch.int64)}


def two_texts() -> dict[str, Tensor]:
    """For an encoder and its decoder."""
    return {"input_ids": words(), "decoder_input_ids": words(7, seed=1)}


def image(size: int = 32) -> dict[str, Tensor]:
    """f32[2, 3, size, size]."""
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}


def both() -> dict[str, Tensor]:
    """A text and an image of each example; CLIP takes the position of the largest token."""
    return {**text(), **image()}


def sound(samples: int = 800) -> dict[str, Tensor]:
    """f32[2, samples] of raw sound."""
    return {"input_values": torch.randn(2, samples, generator=torch.Generator().manual_seed(0))}


def spectrum(frames: int = 24) -> dict[str, Tensor]:
    """f32[2, 16, frames] of mel features, and the words spoken."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 16, frames, generator=generator)
    return {"input_features": features, "decoder_input_ids": words(7, seed=1)}


def made(model: str, config: str, options: dict[str, Any], example: Callable[[], Any]) -> Case:
    """A model of a library's class from its config's class, in eval mode, the same weights each time."""
    hf = importlib.import_module("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = getattr(hf, model)(getattr(hf, config)(**options))
    return _shaken(built).eval(), example()


@torch.no_grad()
def _shaken(model: nn.Module) -> nn.Module:
    """Norms and biases away from one and zero, matrices larger: fresh ones hide what a cut does."""
    generator = torch.Generator().manual_seed(1)
    for tensor in model.parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.add_(noise * (0.1 if tensor.dim() > 1 else 0.05))
    return model


def _clip() -> Case:
    towers = {"projection_dim": 36, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    words_ = {**towers, "hidden_size": WIDTH, "intermediate_size": INNER, "vocab_size": VOCAB,
              "max_position_embeddings": PLACES, "eos_token_id": 2}  # fmt: skip
    seen = {**towers, "hidden_size": 56, "intermediate_size": 88, "image_size": 32, "patch_size": 8}
    options = {"text_config": words_, "vision_config": seen, "projection_dim": 36}
    return made("CLIPModel", "CLIPConfig", options, both)


def _detr() -> Case:
    hf = importlib.import_module("transformers")
    backbone = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[24, 32], depths=[1, 1], out_features=["stage2"]
    )
    options = {**_SPOKEN, "backbone_config": backbone, "backbone": None, "use_timm_backbone": False,
               "use_pretrained_backbone": False, "num_queries": 9, "num_labels": 5}  # fmt: skip
    return made("DetrForObjectDetection", "DetrConfig", options, partial(image, 64))


def _rt_detr_v2() -> Case:
    hf = importlib.import_module("transformers")
    # it warns where its head_dim is no power of two
    widths = [16, 24, 32, 40]
    backbone = hf.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    options = {
        "backbone_config": backbone, "encoder_in_channels": widths[1:], "encoder_hidden_dim": 64,
        "encoder_ffn_dim": INNER, "encoder_attention_heads": HEADS, "d_model": 64, "decoder_layers": LAYERS,
        "decoder_in_channels": [64] * 3, "decoder_ffn_dim": INNER, "decoder_attention_heads": HEADS,
        "decoder_n_points": 2, "num_queries": 12, "num_labels": 5,
    }  # fmt: skip
    return made("RTDetrV2ForObjectDetection", "RTDetrV2Config", options, partial(image, 64))


_ROPE = {**_LLAMA, "head_dim": 16}  # heads x head_dim is not the width
_MOE = {**_LLAMA, "num_local_experts": 3, "num_experts_per_tok": 2}

_CASES: dict[str, tuple[str, str, dict[str, Any], Callable[[], Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _BERT, text),
    "bert_mlm": ("BertForMaskedLM", "BertConfig", _BERT, text),
    "distilbert": (
        "DistilBertForSequenceClassification", "DistilBertConfig",
        {"dim": WIDTH, "n_heads": HEADS, "hidden_dim": INNER, "n_layers": LAYERS, "vocab_size": VOCAB,
         "max_position_embeddings": PLACES, "num_labels": 5}, text,
    ),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _BERT, text),
    "albert": (
        "AlbertForSequenceClassification", "AlbertConfig", {**_BERT, "embedding_size": 28}, text,
    ),
    "electra": (
        "ElectraForSequenceClassification", "ElectraConfig", {**_BERT, "embedding_size": 28}, text,
    ),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification", "DebertaV2Config",
        {**_BERT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
         "norm_rel_ebd": "layer_norm", "share_att_key": True}, text,
    ),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"n_embd": WIDTH, "n_head": HEADS, "n_inner": INNER, "n_layer": LAYERS, "vocab_size": VOCAB,
         "n_positions": PLACES}, text,
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_BERT, "rotary_pct": 0.5}, text),
    "opt": (
        "OPTForCausalLM", "OPTConfig",
        {"hidden_size": WIDTH, "num_attention_heads": HEADS, "ffn_dim": INNER, "num_hidden_layers": LAYERS,
         "vocab_size": VOCAB, "max_position_embeddings": PLACES, "word_embed_proj_dim": WIDTH}, text,
    ),
    "bloom": (
        "BloomForCausalLM", "BloomConfig",
        {"hidden_size": WIDTH, "n_head": HEADS, "n_layer": LAYERS, "vocab_size": VOCAB}, text,
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA, text),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _LLAMA, text),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _ROPE, text),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_ROPE, "sliding_window": 6}, text),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _MOE, text),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**_ROPE, "num_key_value_heads": 1}, text),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_ROPE, "sliding_window": 6}, text),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_ROPE, "sliding_window": 6}, text),
    "phi": ("PhiForCausalLM", "PhiConfig", {**_BERT, "partial_rotary_factor": 0.5}, text),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _LLAMA, text),
    "falcon": (
        "FalconForCausalLM", "FalconConfig",
        {**_BERT, "multi_query": True, "new_decoder_architecture": False, "alibi": False}, text,
    ),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {"d_model": WIDTH, "num_heads": HEADS, "d_kv": 16, "d_ff": INNER, "num_layers": LAYERS,
         "vocab_size": VOCAB, "decoder_start_token_id": 0}, two_texts,
    ),
    "bart": (
        "BartForConditionalGeneration", "BartConfig",
        {**_SPOKEN, "vocab_size": VOCAB, "max_position_embeddings": PLACES}, two_texts,
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", _SEEN, image),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _SEEN, image),
    "beit": ("BeitForImageClassification", "BeitConfig", _SEEN, image),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**_SEEN, "mlp_ratio": 2}, image),
    "swin": (
        "SwinForImageClassification", "SwinConfig",
        {"image_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": [2, 2],
         "num_heads": [2, 4], "mlp_ratio": 2.0, "num_labels": 5}, image,
    ),
    "swinv2": (
        "Swinv2ForImageClassification", "Swinv2Config",
        {"image_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": [2, 2],
         "num_heads": [2, 4], "mlp_ratio": 2.0, "num_labels": 5}, image,
    ),
    "convnext": (
        "ConvNextForImageClassification", "ConvNextConfig",
        {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "num_labels": 5}, partial(image, 64),
    ),
    "segformer": (
        "SegformerForSemanticSegmentation", "SegformerConfig",
        {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
         "decoder_hidden_size": 36, "num_labels": 5}, partial(image, 64),
    ),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**_SPOKEN, "vocab_size": VOCAB, "num_mel_bins": 16, "max_source_positions": 12,
         "max_target_positions": PLACES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 3, "suppress_tokens": None, "begin_suppress_tokens": None}, spectrum,
    ),
    "wav2vec2": (
        "Wav2Vec2ForCTC", "Wav2Vec2Config", {**_HEARD, "num_feat_extract_layers": 3}, sound,
    ),
    "mamba": (
        "MambaForCausalLM", "MambaConfig",
        {"hidden_size": WIDTH, "state_size": 6, "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
         "conv_kernel": 4, "expand": 2, "time_step_rank": 5}, lambda: {"input_ids": words()},
    ),
}  # fmt: skip

SMALL: dict[str, Callable[[], Case]] = {
    **{name: partial(made, *case) for name, case in _CASES.items()},
    "clip": _clip,
    "detr": _detr,
    "rt_detr_v2": _rt_detr_v2,
}
