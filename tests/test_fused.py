"""The oracle's quicker runs: attention as one op carries the masks of its plain ops, and softmax stays the same."""

from typing import Any

import pytest
import torch
from nets import NETS, draw
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

import surgeon
from surgeon.errors import CheckFailed
from surgeon.masked import Masked
from surgeon.proof import Pair
from surgeon.quick import Quick
from surgeon.running import as_dtype, run
from surgeon.trace.inputs import Inputs

torch.set_num_threads(1)
HEADS, POSITIONS, SIZE = 4, 5, 6
ALL_HEADS = {name: {1: [0, 3]} for name in "qkv"}
LAST = POSITIONS - 1
CASES = {
    "heads": ({}, ALL_HEADS, True),
    "head_dim": ({}, {"q": {3: [0, 2, 5]}, "k": {3: [0, 2, 5]}}, True),
    "v's own": ({}, {"v": {3: [1, 4]}}, True),
    "both": ({}, {"q": {1: [1], 3: [0, 2]}, "k": {1: [1], 3: [0, 2]}, "v": {1: [1], 3: [4, 5]}}, True),
    "scale": ({"scale": 0.3}, {"q": {3: [1, 2]}, "k": {3: [1, 2]}}, True),
    "causal": ({"is_causal": True}, ALL_HEADS, True),
    "bias": ({"attn_mask": True}, ALL_HEADS, True),
    "its heads": ({"attn_mask": True}, {**ALL_HEADS, "bias": {1: [0, 3]}}, False),
    "positions": ({}, {"k": {2: [0, LAST]}, "v": {2: [0, LAST]}}, False),
    "queries": ({}, {"q": {2: [0, LAST]}}, False),
    "grouped": ({"enable_gqa": True}, {"q": {3: [0, 1]}, "k": {3: [0, 1]}}, True),
    "groups": ({"enable_gqa": True}, {"q": {1: [2, 3]}, "k": {1: [1]}, "v": {1: [1]}}, True),
    "of each group": ({"enable_gqa": True}, {"q": {1: [0, 2]}}, True),
    "of one group": ({"enable_gqa": True}, {"q": {1: [0, 1, 2]}}, False),
}  # fmt: skip


class Attend(nn.Module):
    def __init__(self, how: dict[str, object]) -> None:
        super().__init__()
        self.how = how
        few = 2 if "enable_gqa" in how else HEADS
        self.q = nn.Parameter(draw(2, HEADS, POSITIONS, SIZE))
        self.k = nn.Parameter(draw(2, few, POSITIONS, SIZE))
        self.v = nn.Parameter(draw(2, few, POSITIONS, SIZE))
        self.bias = nn.Parameter(draw(1, HEADS, POSITIONS, POSITIONS))

    def forward(self, x: Tensor) -> Tensor:
        how = self.how | ({"attn_mask": self.bias} if "attn_mask" in self.how else {})
        return attend(self.q + x, self.k, self.v, **how)  # type: ignore[arg-type]


def masked(name: str, fused: bool) -> tuple[Tensor, Masked]:
    how, keep, _ = CASES[name]
    twin = as_dtype(Attend(how), torch.float64)
    mode = Masked(twin, keep)
    (out,) = run(twin, Inputs.of(torch.zeros((), dtype=torch.float64)), mode, fused)
    assert mode.fused is fused
    return out, mode


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_masks_pass_as_they_do_through_plain_ops(name: str):
    (one, mode), (plain, wanted) = masked(name, True), masked(name, False)
    gone = wanted.masks.of(plain)
    assert torch.equal(mode.masks.of(one), gone)
    assert gone.any() or not {1, 3} & {
        d for n in "qv" for d in CASES[name][1].get(n, {}) if n == "v" or d == 1
    }
    assert (one - plain).abs().max() < 1e-12
    assert mode.ops < wanted.ops


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case[2]])
def test_what_mixes_what_is_removed_is_refused(name: str):
    masked(name, False)
    with pytest.raises(CheckFailed, match=r"cannot carry the masks|no product of rows"):
        masked(name, True)


def tries(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether attention was one op, of every proof from now on."""
    seen, prove = list[bool](), Pair._prove

    def watched(self: Pair, sides: Any, path: Any, *, fused: bool) -> Any:
        seen.append(fused)
        return prove(self, sides, path, fused=fused)

    monkeypatch.setattr(Pair, "_prove", watched)
    return seen


class Biased(nn.Module):
    """Adds a bias to its scores, of each head its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias = nn.Parameter(draw(1, 4, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 4)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, self.bias).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", ["separate_qkv", "grouped_query_flag"])
def test_one_op_does_where_heads_go(name: str, monkeypatch: pytest.MonkeyPatch):
    seen = tries(monkeypatch)
    surgeon.shrink(NETS[name].build(), NETS[name].inputs(), 0.5, cut=("heads",), measure=False)
    assert seen and all(seen)


def test_plain_ops_are_asked_where_one_does_not_do(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    seen = tries(monkeypatch)
    result = surgeon.shrink(Biased().eval(), draw(2, 5, 16), 0.5, cut=("heads",), measure=False)
    assert result.model.bias.shape[1] == 2
    assert seen[:2] == [True, False]
    assert not any(seen[2:])  # once is enough


class Blocks(nn.Module):
    """Deep enough for a path to be long; what the mask switches on is one layer more."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(6))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.more, self.last = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = qkv(x).unflatten(-1, (3, -1, 8)).permute(2, 0, 3, 1, 4)
            x = x + out(attend(q, k, v).transpose(1, 2).flatten(2))
        return self.last(x if said.all() else self.more(x))


def test_a_fault_behind_many_blocks_is_found():
    torch.manual_seed(0)
    model, x = Blocks().eval(), draw(2, 5, 16)
    some, full = torch.tensor([True, False]), torch.tensor([True, True])
    result = surgeon.shrink(model, (x, some), 0.5, cut=("heads",), measure=False)
    slim = result.model
    assert slim.qkv[0].out_features == 24
    slim.more.weight.data[0] += 1  # on the side that a full mask does not take
    with pytest.raises(CheckFailed, match="off by"):
        surgeon.check(model, slim, result.plan, (x, full))


def test_a_wrong_scale_is_found():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale: float | None = None
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            return self.out(attend(q, k, v, scale=self.scale).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model, x = Heads().eval(), draw(2, 5, 16)
    result = surgeon.shrink(model, x, 0.5, cut=("head_dim",), measure=False)
    slim = result.model
    slim.scale = 0.4  # the original's is 8 ** -0.5
    with pytest.raises(CheckFailed, match="first difference: aten"):
        surgeon.check(model, slim, result.plan, x)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_softmax_is_torchs_own(dtype: torch.dtype | None):
    x = draw(3, 4, 5).double()
    rows = x.clone()
    rows[1, 2] = -torch.inf
    nan = x.clone()
    nan[0, 0, 3] = torch.nan
    call = torch.ops.aten._safe_softmax.default
    for given in (x, rows, nan, x[:, :0], torch.tensor(2.0), x[:, :, :0]):
        for dim in {-1, given.dim() - 2 if given.dim() else -1}:
            want = call(given, dim, dtype)
            with Quick():
                got = call(given, dim, dtype)
            assert got.dtype is want.dtype
            assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
