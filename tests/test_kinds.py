"""Kinds of channels: what the products and sums of a forward say, whatever the layers are called."""

import pytest
import torch
from nets import NETS
from test_couple import coupled
from torch import nn

from surgeon.couple import couple
from surgeon.kinds import KINDS
from surgeon.trace.record import record

torch.set_num_threads(1)

HEADS = {"q:heads": "heads", "q:head_dim": "head_dim", "v:head_dim": "head_dim"}
FUSED = {"qkv:heads": "heads", "qkv:head_dim": "head_dim"}
CHUNKED = {**FUSED, "qkv:head_dim#2": "head_dim"}

# the kind of every group that may be cut
FOUND: dict[str, dict[str, str]] = {
    "fused_qkv": {"embed": "width", **FUSED},
    "separate_qkv": {"embed": "width", **HEADS},
    "grouped_query": {"embed": "width", **HEADS, "q:heads#2": "heads"},
    "grouped_query_flag": {"embed": "width", **HEADS, "q:heads#2": "heads"},
    "multi_query": {"embed": "width", **HEADS},
    "folded_query": {"embed": "width", **HEADS},
    "cross_attention": {"embed": "width", "other": "mlp", **HEADS},
    "module_attention": {
        "embed": "width", "attention.in_proj_weight:heads": "heads", "attention.in_proj_weight:head_dim": "head_dim",
    },
    "rotary": {"embed": "width", **HEADS},
    "relative_bias": {"embed": "width", **HEADS},
    "channel_attention": {"embed": "width", **FUSED},
    "einsum_attention": {"embed": "width", **HEADS},
    "query_key_norm": {"embed": "width", **HEADS},
    "shifted_windows": {"stem": "width", **CHUNKED},
    "windows_with_local_bias": {"stem": "width", **CHUNKED},
    "scaled_class_token": {"patch": "width", **FUSED, "gate": "mlp"},
    "stream_attention": {"stem": "width", "q:head_dim": "head_dim"},
    "adapted_mlp": {"embed": "width", "first": "mlp", "down1": "mlp"},
    "projected_shortcut": {"stem": "mlp", "first": "mlp", "second": "width"},
    "gated_residual": {"stem": "mlp", "expand": "mlp", "squeeze": "mlp"},
    "even_split": {
        "enter": "mlp", "enter#2": "mlp", "enter#3": "mlp", "first": "mlp", "second": "mlp", "leave": "mlp",
    },
    "conv_chain": {"stem": "mlp", "conv": "mlp", "last": "mlp"},
    "residual_adds": {"stem": "width", "first": "mlp", "inner": "mlp"},
    "dense_concat": {"stem": "mlp", "first": "mlp", "second": "mlp", "last": "mlp"},
    "tied_embedding": {"embed#2": "width", "first": "mlp"},
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_kinds_of_what_may_be_cut(name: str):
    groups = coupled(name).groups
    assert {g.name: g.kind for g in groups if g.why_not is None} == FOUND[name]


@pytest.mark.parametrize("name", NETS)
def test_every_group_has_a_kind_that_can_be_asked_for(name: str):
    for g in coupled(name).groups:
        assert g.kind in KINDS
        assert (f":{g.kind}" in g.name) == (g.kind in ("heads", "head_dim")), g.name


def kinds(model: nn.Module, *inputs: torch.Tensor) -> dict[str, str]:
    groups = couple(record(model.eval(), inputs)).groups
    return {g.name: g.kind for g in groups if g.why_not is None}


class Standardised(nn.Module):
    """Weights that are computed are weights: their product with an activation is no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(12, 16), nn.Parameter(torch.randn(24, 16))
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean(0)
        return self.head(self.first(x).relu() @ weight.t())


def test_a_computed_weight_is_a_weight():
    assert kinds(Standardised(), torch.randn(4, 12)) == {"weight": "mlp", "weight:in": "mlp"}


class Unbatched(nn.Module):
    """Attention over a single sequence: a plain matrix product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(12, n) for n in (8, 8, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.q(x) @ self.k(x).t()).softmax(-1) @ self.v(x))


def test_a_product_without_a_batch_has_head_dim_only():
    found = kinds(Unbatched(), torch.randn(10, 12))
    assert found == {"q:head_dim": "head_dim", "v:head_dim": "head_dim"}


def test_a_gate_is_no_stream_and_a_sum_of_one_layer_with_itself_neither():
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate, self.head = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.up(x)
            return self.head((y + y.tanh() + 1) * self.gate(x).sigmoid())

    assert kinds(Gates(), torch.randn(4, 12)) == {"up": "mlp"}


def test_names_do_not_matter():
    class Misleading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 4
            self.qkv, self.attn = nn.Linear(12, 24), nn.Linear(24, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attn(self.qkv(x).unflatten(1, (4, 6)).softmax(2).flatten(1))

    assert set(kinds(Misleading(), torch.randn(4, 12)).values()) == {"mlp"}
