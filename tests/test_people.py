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
    assert before_after(net, net, X, path).speed is not None
