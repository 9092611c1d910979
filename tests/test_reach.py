"""What of a network may be cut: every parameter is counted once, and what stays has its true reason."""

from collections.abc import Callable

import pytest
import torch
from nets import NETS
from torch import Tensor, nn

import surgeon
from surgeon.report import text
from surgeon.report.reach import Reach, reach


class Narrow(nn.Module):
    """A classifier with more weights in its bias than most: 4 x 3 + 4 that may go, 300 that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 300)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())


@torch.library.custom_op("reach_tests::unruled", mutates_args=())
def unruled(x: Tensor) -> Tensor:
    """An op of the test's own, so that no table ever has a rule for it."""
    return x.flip(-1)


@unruled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Meets(nn.Module):
    """Channels that meet an op without a rule, between layers that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.ops.reach_tests.unruled(self.first(x))).relu())


class Unread(nn.Module):
    """A layer that the forward does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.spare = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(50, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())


class Tied(nn.Module):
    """One matrix as embedding and output head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).relu())


def found(net: nn.Module, *shape: int) -> Reach:
    return reach(surgeon.trace(net.eval(), torch.zeros(shape)).coupling)


def by_reason(net: nn.Module, *shape: int) -> dict[str, int]:
    return {h.why: h.parameters for h in found(net, *shape).held}


def test_an_output_layers_bias_stays() -> None:
    reached = found(Narrow(), 2, 3)
    assert (reached.parameters, reached.cuttable) == (16 + 1500, 16 + 1200)
    assert [(h.why, h.parameters, h.states) for h in reached.held] == [
        ("model output", 300, ("head.bias",))
    ]
    assert reached.share == pytest.approx(1216 / 1516)


def test_an_op_without_a_rule_is_named() -> None:
    reached = found(Meets(), 2, 6)
    why = "no channel rule for reach_tests.unruled.default"
    held = {h.why: h for h in reached.held}
    # the input's reason and the op's: an element stays because none of its dimensions may go
    weight, bias = (
        next(h for w, h in held.items() if n in h.states) for n in ("first.weight", "first.bias")
    )
    assert why in weight.why
    assert "input" in weight.why
    assert (bias.why, bias.parameters) == (why, 8)
    assert "test_reach.py" in bias.places[0]
    assert reached.parameters - reached.cuttable == 6 * 8 + 8 + 2


def test_a_layer_that_is_not_run() -> None:
    assert by_reason(Unread(), 2, 3) == {"not used with these inputs": 2550, "model output": 2}


def test_a_kernels_extents_and_a_tables_rows_are_no_reasons() -> None:
    """What holds a patch embedding is who meets its filters, not that a kernel has extents."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.table = nn.Conv2d(3, 8, 2, 2), nn.Embedding(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.patch(x).flatten(2).mT + self.table(x[:, 0, 0].long())

    held = {n: h.why for h in found(Patches(), 2, 3, 4, 4).held for n in h.states}
    conv = "meets the model's input, which stays (aten.convolution.default); model output"
    assert held == {
        "patch.weight": conv,
        "patch.bias": "model output",
        "table.weight": "model output",
    }


def test_what_meets_positions_names_who_made_them() -> None:
    """A gate over tokens: the op that meets them, and the convolution whose picture they are."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.gate, self.head = (
                nn.Conv2d(3, 8, 2, 2),
                nn.Linear(4, 4),
                nn.Linear(8, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2)
            return self.head((x * self.gate(x)).mean(2))

    held = {n: h for h in found(Gate(), 2, 3, 4, 4).held for n in h.states}["gate.bias"]
    stays = "meets batch, space or positions of aten.convolution.default, which stay"
    assert held.why == f"{stays} (aten.mul.Tensor)"
    assert [place.split(" (")[0] for place in held.places] == ["the model itself", "patch"]


def test_tied_parameters_count_once() -> None:
    reached = reach(surgeon.trace(Tied().eval(), torch.zeros(2, 3, dtype=torch.int64)).coupling)
    assert (reached.parameters, reached.cuttable) == (120, 120)


@pytest.mark.parametrize("name", NETS)
def test_the_parts_are_the_whole(name: str) -> None:
    """Held and cuttable add up; cutting every group that may be cut touches nothing that is held."""
    case = NETS[name]
    model = case.build()
    try:
        traced = surgeon.trace(model, case.inputs())
    except surgeon.SurgeonError:
        return
    reached = reach(traced.coupling)
    assert reached.parameters == sum(p.numel() for p in model.parameters())
    assert reached.cuttable + sum(h.parameters for h in reached.held) == reached.parameters
    assert reached.cuttable == sum(_touched(traced.groups, n, p) for n, p in _unique(model))


def _unique(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.named_parameters())


def _touched(groups: tuple, name: str, tensor: Tensor) -> int:
    """Elements in the rows and columns of groups that may be cut, marked one by one."""
    marks = torch.zeros(tensor.shape, dtype=torch.bool)
    for group in groups:
        for member in group.members if group.why_not is None else ():
            if member.state == name:
                marks.index_fill_(member.dim, torch.as_tensor(member.at), True)
    return int(marks.sum())


class TestText:
    def line(self, net: nn.Module, *shape: int) -> list[str]:
        return text.reach(found(net, *shape).as_dict())

    def test_reasons_below_ninety_percent(self) -> None:
        first, second = self.line(Narrow(), 2, 3)
        assert first == "in groups that may be cut: 80.2% of the parameters"
        assert second == "  19.8% stays: model output (head.bias)"

    def test_no_reasons_above(self) -> None:
        wide = nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2))
        assert self.line(wide, 2, 50) == ["in groups that may be cut: 99.9% of the parameters"]


@pytest.mark.parametrize("build", [Narrow, Unread])
def test_the_report_holds_it(build: Callable[[], nn.Module]) -> None:
    result = surgeon.shrink(build().eval(), torch.zeros(2, 3), 0.5, measure=False)
    assert result.report["reach"] == found(build(), 2, 3).as_dict()
    assert f"stays: {result.report['reach']['held'][0]['why']}" in result.summary()


class MeetsTwice(nn.Module):
    """Two pieces of channels that meet the same op, the second of them much larger."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Meets(), Meets()
        self.two.first, self.two.second = nn.Linear(6, 80), nn.Linear(80, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)


def test_every_place_of_a_reason_is_told() -> None:
    found = reach(surgeon.trace(MeetsTwice().eval(), torch.randn(2, 6)).coupling)
    held = next(h for h in found.held if h.why == "no channel rule for reach_tests.unruled.default")
    assert [place.split(" ")[0] for place in held.places] == ["one", "two"]
