"""The oracle's quicker runs: attention as one op carries the masks of its plain ops, and softmax stays the same."""

import pytest
import torch
from nets import draw
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

import surgeon
from surgeon.errors import CheckFailed
from surgeon.masked import Masked
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
    "grouped": ({"enable_gqa": True}, {"q": {3: [0, 1]}, "k": {3: [0, 1]}}, False),
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
    assert torch.equal(mode.masks.of(one), wanted.masks.of(plain))
    assert (one - plain).abs().max() < 1e-12
    assert mode.ops < wanted.ops


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case[2]])
def test_what_mixes_what_is_removed_is_refused(name: str):
    masked(name, False)
    with pytest.raises(CheckFailed, match="removed positions reach"):
        masked(name, True)


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
    with pytest.raises(CheckFailed, match="differ"):
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
