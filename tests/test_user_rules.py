"""Rules that users give: to an op of their own, and to a module whose inside nobody can follow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.errors import BadInput, CheckFailed
from surgeon.rules import RULES
from surgeon.rules.registry import MODULES, forget

torch.set_num_threads(1)
X = draw(2, 3, 6, 6)


@torch.library.custom_op("user_rules::scale", mutates_args=())
def scale(x: Tensor, times: int, weight: Tensor) -> Tensor:
    """x f32[N, C, ...] times `times` times weight f32[C]."""
    return x * times * weight.reshape(1, -1, *[1] * (x.dim() - 2))


@scale.register_fake
def _(x: Tensor, times: int, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


class Uses(nn.Module):
    """Two convs with the op between them; `literal` writes a width into forward."""

    def __init__(self, literal: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
        self.w = nn.Parameter(torch.rand(8) + 0.5)
        self.literal = literal

    def forward(self, x: Tensor) -> Tensor:
        x = torch.ops.user_rules.scale(self.a(x), 2, self.w)
        return self.b(x.view(-1, 8, 4, 4) if self.literal else x)


class Curve(torch.autograd.Function):
    """Numpy inside: a dispatch mode sees nothing of it, and meta tensors cannot run it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        out = np.tanh(x.numpy(force=True)) * gain.numpy(force=True).reshape(shape)
        return torch.from_numpy(np.ascontiguousarray(out))


class Gain(nn.Module):
    """Pointwise, with a number a channel, in numpy; it insists on its width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError(f"{x.shape[1]} channels for {self.channels}")
        return Curve.apply(x, self.gain)  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """A product over channels and a norm that divides by their number, as an attribute says."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.inp, self.out = inp, out
        self.weight, self.bias = nn.Parameter(torch.randn(out, inp)), nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        """f32[N, inp, ...] -> f32[N, out, ...], by numpy."""
        made = np.einsum("nc...,oc->no...", x.numpy(force=True), self.weight.numpy(force=True))
        bias = self.bias.numpy(force=True).reshape(1, -1, *[1] * (x.dim() - 2))
        return torch.from_numpy(made + bias)


class Mean(nn.Module):
    """Each element minus the mean over channels, in numpy, divided by a width that it was told."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("shift", torch.linspace(-1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        values = x.numpy(force=True)
        mean = values.sum(1, keepdims=True) / self.channels
        shift = self.shift.numpy(force=True).reshape(1, -1, *[1] * (x.dim() - 2))  # type: ignore[operator]
        return torch.from_numpy(values - mean + shift)


def around(middle: nn.Module, inp: int = 8, out: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, inp, 3), middle, nn.Conv2d(out, 5, 1)).eval()


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    before, modules = set(RULES), set(MODULES)
    yield
    for kind in set(MODULES) - modules:
        forget(kind)
    for name in set(RULES) - before:
        forget(name)


class TestOps:
    def test_without_a_rule_what_it_reaches_stays_by_name(self):
        groups = {g.name: g for g in surgeon.trace(Uses(), X).groups}
        assert "no channel rule for user_rules.scale" in (groups["a"].why_not or "")

    @pytest.mark.parametrize("literal", [False, True])
    def test_with_one_it_is_cut_both_ways(self, literal: bool):
        surgeon.rule("user_rules::scale", "n c *, c -> n c *")
        torch.manual_seed(0)
        result = surgeon.shrink(Uses(literal), X, 0.5, measure=False)
        assert result.way == ("program" if literal else "module")
        assert result.check is not None and result.check.error < 1e-9
        assert result.model.get_parameter("w").shape == (4,)
        assert result.model.get_parameter("a.weight").shape == (4, 3, 3, 3)

    def test_a_wrong_rule_is_found_out(self):
        surgeon.rule("user_rules::scale", "n c *, c -> n c *")

        class Wrong(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.flip(1)

        surgeon.rule(Wrong, "n c * -> n c *")
        with pytest.raises(
            CheckFailed, match=r"rules of your own.*Wrong 'n c \* -> n c \*'"
        ) as caught:
            surgeon.shrink(around(Wrong()), X, 0.5, measure=False)
        assert caught.value.hint is not None and "your rules" in caught.value.hint

    @pytest.mark.parametrize(
        "text, message",
        [
            ("n c *, c", "no '->'"),
            ("n c *, c -> n d *", "factor d of .* stands in an output and in no input"),
            ("n c *, C -> n c *", "cannot read 'C'"),
            ("n * *, c -> n c *", r"more than one '\*'"),
        ],
    )
    def test_a_bad_notation(self, text: str, message: str):
        with pytest.raises(BadInput, match=message):
            surgeon.rule("user_rules::scale", text)
        assert "user_rules.scale" not in RULES

    def test_twice(self):
        surgeon.rule("user_rules::scale", "n c *, c -> n c *")
        with pytest.raises(BadInput, match=r"user_rules\.scale has a rule already: n c \*, c"):
            surgeon.rule("user_rules::scale", "n c *, c -> n c *")
        with pytest.raises(BadInput, match=r"aten\.relu has a rule already"):
            surgeon.rule("aten::relu", "... -> ...")

    @pytest.mark.parametrize("op, text", [(3, "n c -> n c"), (int, "n -> n"), ("a::b", 3)])
    def test_neither_an_op_nor_a_class_nor_a_line(self, op: Any, text: Any):
        with pytest.raises(BadInput, match="a rule is ") as error:
            surgeon.rule(op, text)
        assert error.value.hint

    def test_a_rule_for_an_op_that_torch_does_not_have_is_noted(self):
        surgeon.rule("user_rules::scale", "n c *, c -> n c *")
        surgeon.rule("user_rules::skale", "n c *, c -> n c *")
        try:
            result = surgeon.shrink(Uses(), X, 0.5, check=False, measure=False)
        finally:
            forget("user_rules::skale")
        (note,) = (n for n in result.notes if "no such op" in n)
        assert "user_rules::skale" in note

    def test_a_name_that_is_none(self):
        with pytest.raises(BadInput, match="an op is named 'namespace::name', not 'scale'"):
            surgeon.rule("scale", "... -> ...")

    @pytest.mark.parametrize(
        "text, message",
        [
            (
                "n c * -> n c *",
                r"user_rules\.scale.* has 2 tensors .*, its rule 'n c \* -> n c \*' 1",
            ),
            ("n c, c -> n c", r"does not fit user_rules\.scale.*4 dimensions for 'n c'"),
        ],
    )
    def test_a_rule_for_other_tensors(self, text: str, message: str):
        surgeon.rule("user_rules::scale", text)
        with pytest.raises(BadInput, match=message):
            surgeon.trace(Uses(), X)

    def test_a_rule_is_taken_back(self):
        surgeon.rule("user_rules::scale", "n c *, c -> n c *")
        forget("user_rules::scale")
        assert "user_rules.scale" not in RULES
        with pytest.raises(ValueError, match="surgeon's own"):
            forget("aten::relu")


class TestModules:
    def test_without_a_rule_what_leaves_the_graph_stays_by_name(self):
        groups = {g.name: g for g in surgeon.trace(around(Gain(8)), X).groups}
        assert "no channel rule for Tensor.numpy, at 1 (test_user_rules.py" in (
            groups["0"].why_not or ""
        )
        with pytest.raises(surgeon.OutOfReach, match=r"no channel rule for Tensor\.numpy"):
            surgeon.shrink(around(Gain(8)), X, 0.5, measure=False)

    @pytest.mark.parametrize("sizes", [None, {"channels": "c"}])
    def test_one_line(self, sizes: dict[str, str] | None):
        """What its attribute must be is said in the rule, or found by what the forward refuses."""
        surgeon.rule(Gain, "n c *, c -> n c *", sizes=sizes)
        model = around(Gain(8))
        traced = surgeon.trace(model, X)
        assert [n.op.rpartition(".")[2] for n in traced.graph.nodes if "module:" in n.op] == [
            "Gain"
        ]
        result = surgeon.shrink(model, X, 0.5, measure=False)
        assert result.way == "module" and isinstance(result.model[1], Gain)  # type: ignore[index]
        assert result.model[1].channels == 4 and model[1].channels == 8  # type: ignore[index,union-attr]
        assert result.model[1].gain.shape == (4,)  # type: ignore[index,union-attr]
        assert result.check is not None and result.check.error <= result.check.tolerance
        assert not any("not used" in note for note in result.notes)

    def test_contracted_and_made(self):
        surgeon.rule(Mixer, "n i *, o i, o -> n o *", sizes={"inp": "i", "out": "o"})
        result = surgeon.shrink(around(Mixer(8, 12), 8, 12), X, 0.5, measure=False)
        mixer = result.model[1]  # type: ignore[index]
        assert (mixer.inp, mixer.out, mixer.weight.shape) == (4, 6, (6, 4))  # type: ignore[union-attr]
        names = [g.name for g in surgeon.trace(around(Mixer(8, 12), 8, 12), X).groups]
        assert "1" in names

    def test_state_in_another_order(self):
        surgeon.rule(Mixer, "n i *, o, o i -> n o *", state=("bias", "weight"))
        result = surgeon.shrink(around(Mixer(8, 12), 8, 12), X, 0.5, measure=False)
        assert result.model[1].weight.shape == (6, 4)  # type: ignore[index,union-attr]

    def test_mixing_runs_on_what_is_kept(self):
        surgeon.rule(Mean, "n c! *, c -> n c! *", sizes={"channels": "c"})
        result = surgeon.shrink(around(Mean(8)), X, 0.5, measure=False)
        assert result.check is not None and result.check.error < 1e-9
        assert result.model[1].channels == 4  # type: ignore[index,union-attr]
        assert any(not g.exact for g in result.plan.groups)

    def test_groups_named_by_an_attribute(self):
        class Rescaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.groups, self.each = 4, 3
                self.weight = nn.Parameter(torch.rand(4) + 0.5)

            def forward(self, x: Tensor) -> Tensor:
                values = x.numpy(force=True)
                box = values.reshape(len(values), self.groups, self.each, -1)
                made = box * self.weight.numpy(force=True).reshape(1, -1, 1, 1)
                return torch.from_numpy(made.reshape(values.shape))

        surgeon.rule(Rescaled, "n (g i) *, g -> n (g i) *", sizes={"groups": "g", "each": "i"})
        result = surgeon.shrink(around(Rescaled(), 12, 12), X, 0.5, measure=False)
        middle = result.model[1]  # type: ignore[index]
        assert middle.groups * middle.each == result.model[0].out_channels < 12  # type: ignore[index,union-attr,operator]

    def test_a_class_that_has_the_forward_has_the_rule(self):
        class Same(Gain):
            pass

        class Other(Gain):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x)

        surgeon.rule(Gain, "n c *, c -> n c *")
        assert surgeon.shrink(around(Same(8)), X, 0.5, measure=False).way == "module"
        nodes = surgeon.trace(around(Other(8)), X).graph.nodes
        assert not any(n.op.startswith("module:") for n in nodes)

    def test_a_class_defined_anew_replaces_its_rule(self):
        def define() -> type[nn.Module]:
            class Cell(nn.Module):
                def forward(self, x: Tensor) -> Tensor:
                    return torch.from_numpy(np.tanh(x.numpy(force=True)))

            return Cell

        first, second = define(), define()
        surgeon.rule(first, "... -> ...")
        with pytest.raises(BadInput, match="has a rule already"):
            surgeon.rule(first, "... -> ...")
        surgeon.rule(second, "... -> ...")
        assert first not in MODULES
        assert surgeon.shrink(around(second()), X, 0.5, measure=False).plan.removed == 4

    def test_called_twice_with_a_keyword(self):
        class Add(nn.Module):
            def forward(self, x: Tensor, factor: float = 1.0, *, y: Tensor) -> Tensor:
                return torch.from_numpy(x.numpy(force=True) + factor * y.numpy(force=True))

        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.c = (nn.Conv2d(3, 8, 3) for _ in range(3))
                self.add, self.out = Add(), nn.Conv2d(8, 5, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.out(self.add(self.add(self.a(x), y=self.b(x)), 2.0, y=self.c(x)))

        surgeon.rule(Add, "..., ... -> ...")
        torch.manual_seed(0)
        result = surgeon.shrink(Two(), X, 0.5, measure=False)
        assert [len(result.model.get_parameter(f"{n}.weight")) for n in "abc"] == [4, 4, 4]

    @pytest.mark.parametrize(
        "options, message",
        [
            ({}, r"has 2 tensors .*, its rule 'n c \* -> n c \*' 1"),
            ({"state": ("wight",)}, "names wight, which it has not"),
        ],
    )
    def test_a_rule_that_does_not_fit(self, options: dict[str, Any], message: str):
        surgeon.rule(Gain, "n c * -> n c *", **options)
        with pytest.raises(BadInput, match=message):
            surgeon.trace(around(Gain(8)), X)

    def test_sizes_that_are_no_factors(self):
        with pytest.raises(BadInput, match="'d' of channels is no factor"):
            surgeon.rule(Gain, "n c *, c -> n c *", sizes={"channels": "d"})
        with pytest.raises(BadInput, match="state and sizes are a module's"):
            surgeon.rule("user_rules::scale", "n c *, c -> n c *", state=("w",))

    def test_where_the_rest_needs_a_program_the_reason_is_said(self):
        class Literal(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.gain, self.b = nn.Conv2d(3, 8, 3), Gain(8), nn.Conv2d(8, 5, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.b(self.gain(self.a(x)).view(-1, 8, 4, 4))

        surgeon.rule(Gain, "n c *, c -> n c *")
        with pytest.raises(
            surgeon.SurgeonError, match=r"neither surgery can cut this network.*as a program"
        ):
            surgeon.shrink(Literal(), X, 0.5, measure=False)

    def test_loads_into_its_class(self, tmp_path: Path):
        surgeon.rule(Gain, "n c *, c -> n c *", sizes={"channels": "c"})
        model = around(Gain(8))
        result = surgeon.shrink(model, X, 0.5, measure=False)
        again = surgeon.apply(result.plan, model, X)
        assert torch.equal(again(X), result.model(X))
