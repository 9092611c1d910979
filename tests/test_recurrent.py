"""Recurrent networks: the hidden axis is cut, the gates' is not, and nn.LSTM stays nn.LSTM."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from models.recurrent import SMALL
from surgeon.trace.plain import PLAIN

torch.set_num_threads(1)
X = draw(3, 6, 12)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"num_layers": 2, "dropout": 0.3},
    {"bidirectional": True, "bias": False},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]
KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
CASES = [(name, options) for name in KINDS for options in OPTIONS] + [
    ("rnn", {"nonlinearity": "relu", "num_layers": 2}),
    ("lstm", {"proj_size": 8}),
    ("lstm", {"proj_size": 8, "num_layers": 2, "bidirectional": True}),
]


class Between(nn.Module):
    """A linear, a recurrent layer, a linear."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 24)
        self.rnn = KINDS[kind](24, 16, **options)
        width = options.get("proj_size", 16) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])


def made(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return SMALL[name]()


def width(rnn: nn.RNNBase) -> int:
    gates = {"LSTM": 4, "GRU": 3}.get(rnn.mode, 1)
    return rnn._parameters["weight_hh_l0"].shape[0] // gates  # type: ignore[union-attr]


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=[f"{k}-{'-'.join(o) or 'plain'}" for k, o in CASES]
)
def test_every_kind_of_layer_is_halved_and_proven(
    kind: str, options: dict[str, Any], ratio: float
) -> None:
    torch.manual_seed(0)
    model = Between(kind, options)
    result = surgeon.shrink(model, X, ratio, measure=False)
    slim = result.model.rnn
    assert result.check is not None and result.check.dtype == "float64"
    assert (result.way, type(slim)) == ("module", KINDS[kind])
    assert slim.hidden_size == width(slim) == round(16 * (1 - ratio))
    assert slim.input_size == round(24 * (1 - ratio))
    assert slim.proj_size == options.get("proj_size", 0) * (1 - ratio)
    for name, tensor in slim.named_parameters():
        old = model.rnn.get_parameter(name)
        assert all(a < b for a, b in zip(tensor.shape, old.shape, strict=True)), name


@cache
def shrunk(name: str, ratio: float, scope: str) -> tuple[nn.Module, surgeon.Result]:
    """The model and what comes of it, which tests only look at."""
    model, inputs = made(name)
    return model, surgeon.shrink(model, inputs, ratio, scope=scope, measure=False)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("name", SMALL)
def test_networks_are_cut_and_proven(name: str, ratio: float, scope: str) -> None:
    model, result = shrunk(name, ratio, scope)
    size = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in result.model.parameters()) < size * (1.1 - ratio)
    assert result.check is not None
    if scope == "local":
        assert type(result.model) is type(model)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", SMALL)
def test_the_slim_network_trains(name: str) -> None:
    """One step moves every weight that had a gradient in the original; the LSTM holds no stale copies."""
    _, inputs = made(name)
    slim = copy.deepcopy(shrunk(name, 0.5, "local")[1].model).train()
    before = copy.deepcopy(slim.state_dict())
    optimizer = torch.optim.SGD(slim.parameters(), 0.1)
    slim(*inputs).square().mean().backward()
    optimizer.step()
    moved = [n for n, p in slim.named_parameters() if not torch.equal(p, before[n])]
    assert set(moved) == {n for n, p in slim.named_parameters() if p.grad is not None}
    assert len(moved) == len(list(slim.parameters()))
    for module in slim.modules():
        if isinstance(module, nn.RNNBase):
            held = {id(p) for p in module.parameters()}
            assert {id(p) for p in module._flat_weights} == held  # type: ignore[arg-type]
            module.flatten_parameters()


def test_packed_sequences_are_followed_to_the_layer_before_them() -> None:
    model, inputs = made("packed_tagger")
    traced = surgeon.trace(model, inputs)
    assert traced.graph.on_meta and not traced.unknown
    free = {g.name: g.size for g in traced.groups if g.why_not is None}
    assert free == {"embed": 24, "lstm.weight_hh_l0": 16}


def test_the_slim_network_takes_other_lengths() -> None:
    _, inputs = made("packed_classifier")
    slim = shrunk("packed_classifier", 0.5, "local")[1].model
    assert slim(inputs[0][:, :5], torch.tensor([5, 1, 3])).shape == (3, 5)


def test_a_layer_is_named_by_its_module_and_a_channel_by_its_kernel() -> None:
    model, inputs = made("tagger")
    kept = surgeon.shrink(model, inputs, 0.5, ignore=["lstm"], measure=False).model
    assert (kept.lstm.hidden_size, kept.lstm.input_size) == (16, 12)
    gone = surgeon.remove(model, inputs, {"lstm.weight_hh_l0:in": [0, 3]}, measure=False)
    left = [i for i in range(16) if i not in (0, 3)]
    assert gone.plan.keep["lstm.weight_hh_l1_reverse"] == {
        0: tuple(16 * gate + i for gate in range(4) for i in left),
        1: tuple(left),
    }


def test_a_given_first_state_is_an_input_and_stays() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm = nn.Linear(12, 24), nn.LSTM(24, 16)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
            return self.lstm(self.embed(x), (h, c))[0].sum(2)

    torch.manual_seed(0)
    inputs = (X, draw(1, 6, 16), draw(1, 6, 16, seed=1))
    result = surgeon.shrink(Stateful(), inputs, 0.5, measure=False)
    assert result.model.lstm.hidden_size == 16
    assert result.model.lstm.input_size == 12


class LiteralState(nn.Module):
    """The size of the first state is written into forward, and so is the place of the other direction."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 24)
        self.lstm = nn.LSTM(24, 16, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = (torch.zeros(2, x.shape[0], 16), x.new_zeros(2, x.shape[0], 16))
        both, _ = self.lstm(self.embed(x), first)
        return self.head(both[..., :16] + both[..., 16:])


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_sizes_in_the_code_are_rewritten_in_the_program(ratio: float) -> None:
    torch.manual_seed(0)
    result = surgeon.shrink(LiteralState(), X, ratio, measure=False)
    assert result.way == "program" and result.check is not None
    assert result.model.get_parameter("lstm.weight_hh_l0").shape == (
        64 * (1 - ratio),
        16 * (1 - ratio),
    )
    assert result.model(X[:2]).shape == (2, 6, 5)


class LooksAtValues(Between):
    """Python reads a number: only real tensors show it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.abs().max()) > 0 else x


def test_real_tensors_are_recorded_as_plain_ops() -> None:
    """On real tensors torch would run a layer of an LSTM as one op of oneDNN."""
    enabled = torch._C._get_mkldnn_enabled()
    torch.manual_seed(0)
    traced = surgeon.trace(LooksAtValues("lstm", {}), X)
    assert not traced.graph.on_meta
    assert [g.size for g in traced.groups if g.why_not is None] == [24, 16]
    assert torch._C._get_mkldnn_enabled() is enabled


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_a_fused_cell_is_what_torch_computes(kind: type[nn.RNNCellBase], bias: bool) -> None:
    """CUDA's one op a step, which has no channel rule, as the ops that have."""
    torch.manual_seed(0)
    cell, x, h, c = kind(12, 16, bias=bias), draw(3, 12), draw(3, 16, seed=1), draw(3, 16, seed=2)
    lstm = kind is nn.LSTMCell
    op = torch.ops.aten._thnn_fused_lstm_cell if lstm else torch.ops.aten._thnn_fused_gru_cell
    biases = (cell.bias_ih, cell.bias_hh) if bias else ()
    got = PLAIN[op.default](x @ cell.weight_ih.T, h @ cell.weight_hh.T, c if lstm else h, *biases)
    want = cell(x, (h, c)) if lstm else (cell(x, h),)
    for a, b in zip(got, want, strict=False):
        torch.testing.assert_close(a, b)


def test_a_saved_lstm_is_loaded_back(tmp_path: Path) -> None:
    model, inputs = made("tagger")
    result = surgeon.shrink(model, inputs, 0.5, measure=False)
    surgeon.save(result, tmp_path / "slim.pth")
    again = surgeon.load(tmp_path / "slim.pth", model=SMALL["tagger"]()[0])
    assert again.lstm.hidden_size == 8
    assert torch.equal(again(*inputs), result.model(*inputs))
    program = surgeon.load(tmp_path / "slim.pth")
    torch.testing.assert_close(program(*inputs), result.model(*inputs))
