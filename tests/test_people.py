"""Networks as people write them: each of these came out wrong, or whole, before."""

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, build
from nets.people import EarlyExit, chance
from torch import Tensor, nn

import surgeon
from surgeon.cut import cut
from surgeon.errors import CheckFailed
from surgeon.export import export_onnx
from surgeon.measure import Budget
from surgeon.measure.pair import before_after

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["sentence_kernels", "decoder", "agreeing_views"])
def test_all_of_it_may_be_cut_and_it_stays_its_own_class(name: str):
    case = NETS[name]
    result = surgeon.shrink(case.build(), case.inputs(), 0.5, measure=False)
    assert result.way == "module"
    assert result.reach is not None and result.reach.share > 0.97


def test_a_kernel_that_spans_the_embedding_says_so():
    case = NETS["sentence_kernels"]
    slim = surgeon.shrink(case.build(), case.inputs(), 0.5, measure=False).model
    assert slim.embed.embedding_dim == 8 and slim.convs[0].kernel_size == (2, 8)  # type: ignore[union-attr,index]


def test_its_input_kernels_are_addressed_as_ever():
    """Space is taken too where a kernel spans it: `:in` means channels."""
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 8), nn.Conv2d(8, 4, 1)).eval()
    slim = surgeon.remove(net, X, {"1:in": [0, 5]}, measure=False).model
    assert [tuple(layer.weight.shape[:2]) for layer in slim] == [(4, 3), (8, 4), (4, 8)]  # type: ignore[union-attr]


def test_both_exits_stay():
    slim = surgeon.shrink(build(EarlyExit), X, 0.5, measure=False).model
    assert (slim.first.out_features, slim.head.out_features) == (5, 5)  # type: ignore[union-attr]


class TestRandomNumbers:
    def test_are_held_still_for_the_comparison(self):
        result = surgeon.shrink(chance(), X, 0.5, measure=False)
        assert result.check is not None and result.check.error < 1e-9
        assert any("draws random numbers in eval mode" in note for note in result.notes)
        first, second = (result.model(X) for _ in range(2))
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("name", ["conv.weight", "noise", "head.weight"])
    def test_hide_no_fault(self, name: str):
        model = chance()
        proposal = surgeon.propose(model, X, 0.5)
        slim = cut(model, X, proposal.traced.coupling, proposal.plan).model
        with torch.no_grad():
            tensor = slim.get_parameter(name)
            tensor.copy_(tensor.roll(1, 0 if name != "head.weight" else 1))
        with pytest.raises(CheckFailed):
            surgeon.check(model, slim, proposal.plan, X)

    def test_are_what_the_onnx_file_cannot_be_compared_for(self, tmp_path):
        class Drops(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return F.dropout(x)

        with pytest.raises(CheckFailed, match="draws random numbers in eval mode"):
            export_onnx(Drops().eval(), tmp_path / "a.onnx", X)


def test_a_file_whose_batch_is_fixed_is_not_timed_on_another(tmp_path):
    net = nn.Conv2d(3, 4, 1).eval()
    path = tmp_path / "slim.onnx"
    export_onnx(net, path, X, dynamic_batch=False)
    quick = Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=0.2)
    assert before_after(net, net, X, path, quick).speed is not None


class AsksShape(nn.Module):
    """The shape of one channel's map, of which nothing else is read; sometimes its numbers."""

    def __init__(self, numbers: bool = False) -> None:
        super().__init__()
        self.numbers = numbers
        self.embed, self.places = nn.Linear(12, 16), nn.Embedding(20, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        one = x[:, :, -1]
        x = x + self.places(torch.arange(one.shape[1]))
        return self.head(x + one.unsqueeze(2) if self.numbers else x)


def test_whose_shape_is_asked_is_not_read():
    x = torch.randn(2, 10, 12)
    groups = [
        {g.name: g for g in surgeon.trace(AsksShape(n), x).groups}["embed"] for n in (False, True)
    ]
    assert [g.size for g in groups] == [16, 15]
    result = surgeon.shrink(AsksShape(), x, remove={"embed": [0, 15]}, measure=False)
    assert result.way == "module" and result.model.head.in_features == 14  # type: ignore[union-attr]


class Table(nn.Module):
    """Positions held in a list, which no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 5)
        self.places = [torch.rand(1, 10, 16)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x) + self.places[0])


def test_a_tensor_that_is_no_state_is_named_as_such():
    groups = {g.name: g.why_not for g in surgeon.trace(Table(), torch.randn(2, 10, 12)).groups}
    assert "no parameter or buffer" in (groups["embed"] or "")
    assert "the model's input" in (groups["embed:in"] or "")


class Pairs(nn.Module):
    """Rotation of neighbours: of the last pair that stays every second channel is one position."""

    def __init__(self, heads: int = 4, turned: int = 4, size: int = 12) -> None:
        super().__init__()
        self.heads, self.turned, self.size = heads, turned, size
        self.register_buffer("angles", torch.rand(20, turned // 2))
        self.embed = nn.Linear(12, heads * size)
        self.qkv = nn.ModuleList(nn.Linear(heads * size, heads * size) for _ in range(3))
        self.head = nn.Linear(heads * size, 5)

    def turn(self, x: Tensor) -> Tensor:
        x, rest = x[..., : self.turned], x[..., self.turned :]
        angle = self.angles[: x.shape[2]]
        even, odd = x[..., ::2], x[..., 1::2]
        turned = even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()
        return torch.cat([torch.stack(turned, -1).flatten(-2), rest], -1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        shape = (*x.shape[:2], self.heads, self.size)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in self.qkv)
        weights = (self.turn(q) @ self.turn(k).mT).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).flatten(2) + x)


def test_one_number_for_two_things_keeps_no_module_from_its_own_class():
    """Four heads stay, four rotary channels become two: both say 4."""
    net = build(Pairs)
    result = surgeon.shrink(net, torch.randn(2, 10, 12), 0.5, measure=False)
    assert result.why is None
    slim = result.model
    assert (slim.heads, slim.turned, slim.size) == (4, 2, 6)
