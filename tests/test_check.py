"""The oracle says yes to right cuts and no to wrong ones, however small the outputs are."""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from nets import NETS, draw
from torch import Tensor, nn

import surgeon
from surgeon.compare import compare
from surgeon.errors import BadInput, CheckFailed, Unproven
from surgeon.plan import Plan
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import to_program

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.bn1(self.conv1(x)).relu()).relu()
        return self.fc(x.mean((2, 3)))


X = draw(2, 3, 8, 8)
Broken = Callable[[nn.Module], object]


def cut(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] = X) -> tuple[nn.Module, Plan]:
    result = surgeon.shrink(model, inputs, 0.5, check=False, measure=False)
    return result.model, result.plan


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def weight(name: str, change: Callable[[Tensor], Tensor]) -> Broken:
    def broken(slim: nn.Module) -> None:
        with torch.no_grad():
            parameter = slim.get_parameter(name)
            parameter.copy_(change(parameter.clone()))

    return broken


def _one(tensor: Tensor) -> Tensor:
    tensor.view(-1)[7] += 1e-2
    return tensor


WRONG: dict[str, Broken] = {
    "filters in another order": weight("conv1.weight", lambda w: w.flip(0)),
    "kernels in another order": weight("conv2.weight", lambda w: w.flip(1)),
    "one weight": weight("conv2.weight", _one),
    "a scale": weight("bn1.weight", lambda w: w * 1.001),
    "a bias": weight("conv2.bias", lambda b: b + 1e-3),
    "no bias": weight("conv1.bias", torch.zeros_like),
    "a running mean": lambda slim: slim.get_buffer("bn1.running_mean").add_(0.01),
    "the head": weight("fc.weight", lambda w: w.roll(1, 1)),
}


class TestYes:
    def test_what_shrink_cuts(self, net: Net) -> None:
        slim, plan = cut(net)
        found = surgeon.check(net, slim, plan, X)
        assert found.error < 1e-12
        assert (found.dtype, found.tolerance, found.outputs) == ("float64", 1e-9, 1)
        assert found.ops > 5
        assert found.as_dict()["proven"] is True

    def test_nothing_is_changed(self, net: Net) -> None:
        slim, plan = cut(net)
        net.train()
        before = [copy.deepcopy(m.state_dict()) for m in (net, slim)]
        surgeon.check(net, slim, plan, (X,))
        for model, state in zip((net, slim), before, strict=True):
            assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
            assert {t.dtype for t in model.parameters()} == {torch.float32}
        assert net.training
        assert not slim.training

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions(self, net: Net, dtype: torch.dtype) -> None:
        net = net.to(dtype)
        slim, plan = cut(net, X.to(dtype))
        found = surgeon.check(net, slim, plan, X.to(dtype))
        assert found.dtype == "float64"
        assert found.error < 1e-9

    def test_where_float64_does_not_run_the_models_own_type_does(self) -> None:
        class Insists(Net):
            def forward(self, x: Tensor) -> Tensor:
                if x.dtype != torch.float32:
                    raise TypeError("float32 only")
                return super().forward(x)

        torch.manual_seed(0)
        net = Insists().eval()
        slim, plan = cut(net)
        found = surgeon.check(net, slim, plan, X)
        assert (found.dtype, found.tolerance) == ("float32", 1e-5)
        assert "in float64" in found.notes[-1]
        WRONG["one weight"](slim)
        with pytest.raises(CheckFailed):
            surgeon.check(net, slim, plan, X)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_casts_in_a_forward_are_casts_to_the_precision_of_the_check(
        self, dtype: torch.dtype
    ) -> None:
        class Casts(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = self.conv1(x.to(dtype)).float() + torch.zeros(1, dtype=torch.float32)
                x = self.conv2(self.bn1(x).relu().to(dtype)).float()
                return self.fc(x.softmax(1, dtype=torch.float32).mean((2, 3)).to(dtype)).float()

        torch.manual_seed(0)
        net = Casts().eval().to(dtype)
        net.bn1.float()
        slim, plan = cut(net)
        found = surgeon.check(net, slim, plan, X)
        assert (found.dtype, found.notes) == ("float64", ())
        assert found.error < 1e-12
        WRONG["one weight"](slim)
        with pytest.raises(CheckFailed):
            surgeon.check(net, slim, plan, X)
        assert torch.get_default_dtype() == torch.float32

    def test_complex_numbers(self) -> None:
        class Turned(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = (nn.Linear(n, 12, dtype=torch.complex64) for n in (8, 12))
                self.c = nn.Linear(12, 3, dtype=torch.complex64)

            def forward(self, x: Tensor) -> Tensor:
                return self.c(self.b(self.a(torch.complex(x, x * x))).sin())

        torch.manual_seed(0)
        net, x = Turned().eval(), draw(2, 8)
        slim, plan = cut(net, x)
        assert surgeon.check(net, slim, plan, x).error < 1e-9
        weight("b.weight", lambda w: w * (1 + 1e-3j))(slim)
        with pytest.raises(CheckFailed):
            surgeon.check(net, slim, plan, x)


class TestNo:
    @pytest.mark.parametrize("what", WRONG)
    def test_one_thing_wrong(self, net: Net, what: str) -> None:
        slim, plan = cut(net)
        WRONG[what](slim)
        with pytest.raises(CheckFailed, match="the cut model is off by"):
            surgeon.check(net, slim, plan, X)

    @pytest.mark.parametrize("what", WRONG)
    @pytest.mark.parametrize("size", [1e-12, 1e9])
    def test_however_large_the_outputs_are(self, net: Net, what: str, size: float) -> None:
        with torch.no_grad():
            net.fc.weight *= size
            net.fc.bias *= size
        slim, plan = cut(net)
        surgeon.check(net, slim, plan, X)
        WRONG[what](slim)
        with pytest.raises(CheckFailed):
            surgeon.check(net, slim, plan, X)

    def test_a_bias_that_drowns_the_rest_hides_nothing(self, net: Net) -> None:
        class Rolled(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = self.bn1(self.conv1(x)).relu().roll(1, 1)
                return self.fc(self.conv2(x).relu().mean((2, 3)))

        with torch.no_grad():
            net.fc.weight *= 1e-12
            net.fc.bias.copy_(torch.linspace(1, 9, 5))
        slim, plan = cut(net)
        found = surgeon.check(net, slim, plan, X)
        assert "also compared with random ones" in found.notes[0]
        slim.__class__ = Rolled
        with pytest.raises(CheckFailed):
            surgeon.check(net, slim, plan, X)

    def test_the_wrong_channels_kept(self, net: Net) -> None:
        slim, _ = cut(net)
        other = surgeon.shrink(net, X, 0.5, criterion="random", check=False, measure=False)
        with pytest.raises(CheckFailed, match="the cut model is off by"):
            surgeon.check(net, slim, other.plan, X)

    def test_a_wrong_attention_scale(self) -> None:
        case = NETS["fused_qkv"]
        model = case.build()
        result = surgeon.shrink(model, case.inputs(), 0.5, check=False, measure=False)
        surgeon.check(model, result.model, result.plan, case.inputs())
        name = next(n for n, _ in result.model.named_parameters() if "q" in n and "weight" in n)
        weight(name, lambda w: w * 0.7)(result.model)
        with pytest.raises(CheckFailed):
            surgeon.check(model, result.model, result.plan, case.inputs())

    def test_another_number_of_outputs(self, net: Net) -> None:
        class Twice(nn.Module):
            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return x.mean((2, 3)), x

        _, plan = cut(net)
        with pytest.raises(CheckFailed, match="gives 2 outputs instead of 1"):
            surgeon.check(net, Twice(), plan, X)

    def test_an_output_of_another_shape(self, net: Net) -> None:
        slim, plan = cut(net)
        slim.fc = nn.Linear(8, 4)
        with pytest.raises(CheckFailed, match=r"output 0 has shape \[2, 4\] instead of \[2, 5\]"):
            surgeon.check(net, slim, plan, X)


class TestNames:
    @pytest.mark.parametrize(
        "what, place",
        [
            ("filters in another order", "aten.convolution.default at conv1"),
            ("one weight", "aten.convolution.default at conv2"),
            ("a scale", "batch_norm"),
            ("the head", "at fc"),
        ],
    )
    def test_the_first_node_that_differs(self, net: Net, what: str, place: str) -> None:
        slim, plan = cut(net)
        WRONG[what](slim)
        with pytest.raises(CheckFailed) as caught:
            surgeon.check(net, slim, plan, X)
        assert "first difference: " in str(caught.value)
        assert place in str(caught.value)

    def test_unless_the_two_forwards_differ(self, net: Net) -> None:
        class Other(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * 2

        slim, plan = cut(net)
        slim.__class__ = Other
        with pytest.raises(CheckFailed, match="run different ops"):
            surgeon.check(net, slim, plan, X)


class TestRefuses:
    def test_a_model_that_is_not_deterministic(self) -> None:
        class Chance(Net):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x + random.random())

        net = Chance().eval()
        slim, plan = cut(net)
        with pytest.raises(
            BadInput, match="not deterministic in eval mode: it draws random numbers"
        ):
            surgeon.check(net, slim, plan, X)

    def test_a_model_that_fails(self, net: Net) -> None:
        slim, plan = cut(net)
        with pytest.raises(BadInput, match="the model fails in forward"):
            surgeon.check(net, slim, plan, torch.zeros(2, 4, 8, 8))

    def test_nothing_of_a_recurrent_network(self) -> None:
        case = NETS["bidirectional_gru"]
        model = case.build()
        slim, plan = cut(model, case.inputs())
        assert surgeon.check(model, slim, plan, case.inputs()).error < 1e-9

    def test_nothing_of_broken_weights_that_stay(self, net: Net) -> None:
        with torch.no_grad():
            net.conv1.weight[:6] = float("nan")
        result = surgeon.shrink(net, X, 0.25, measure=False)
        assert result.check is not None
        assert "also compared with random ones" in result.check.notes[0]
        assert bool(result.model(X).isnan().all())
        slim = result.model
        slim.forward = lambda x: Net.forward(slim, x).roll(1, 1)  # type: ignore[method-assign]
        with pytest.raises(CheckFailed):
            surgeon.check(net, slim, result.plan, X)


class Hidden(nn.Module):
    """Attention over tokens: where all are the same, queries and keys change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 10)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        weights = (self.q(x) @ self.k(x).mT).softmax(-1)
        return self.head(weights @ self.v(x))


@pytest.mark.parametrize("token", [0, 1, 7])
def test_tokens_that_are_all_the_same_hide_nothing(token: int) -> None:
    torch.manual_seed(0)
    net, ids = Hidden().eval(), torch.full((2, 7), token)
    slim, plan = cut(net, ids)
    assert surgeon.check(net, slim, plan, ids).error < 1e-9
    with torch.no_grad():
        slim.get_submodule("q").get_parameter("weight")[0].mul_(2)
    with pytest.raises(CheckFailed):
        surgeon.check(net, slim, plan, ids)


def test_what_cannot_be_told_is_no_bug() -> None:
    """Outputs that are all infinite say nothing, and that is what is said."""

    class Endless(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0

    net = Endless().eval()
    with pytest.raises(Unproven, match="cannot be proven") as caught:
        surgeon.shrink(net, X, 0.5, measure=False)
    assert "bug" not in str(caught.value)


class OwnSize(nn.Module):
    """A size written down beside the layers that have it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.first, self.last = size, nn.Linear(8, size), nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu() + torch.zeros(len(x), self.size))


def test_a_cut_model_that_fails_is_not_the_users_inputs() -> None:
    torch.manual_seed(0)
    model, x = OwnSize(12).eval(), torch.randn(2, 8)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    result.model.size = 12
    with pytest.raises(CheckFailed, match="the cut model fails where the original runs"):
        surgeon.check(model, result.model, result.plan, x)


def test_inputs_that_a_program_does_not_take_are_bad_input() -> None:
    torch.manual_seed(0)
    model, x = OwnSize(12).eval(), torch.randn(2, 8)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    program = to_program(result.model, Inputs.of(x))
    program.dynamic_batch = False
    with pytest.raises(BadInput, match="this program takes"):
        surgeon.check(model, program, result.plan, torch.randn(5, 8))


class Particular(nn.Module):
    """It takes no inputs but those that are as it says: what noise, and places in another order, are not."""

    def __init__(self, asks: Callable[[Tensor], bool], tokens: bool) -> None:
        super().__init__()
        self.first = nn.Embedding(30, 16) if tokens else nn.Linear(6, 16)
        self.inner, self.last, self.asks = nn.Linear(16, 24), nn.Linear(24, 3), asks

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and not self.asks(x):
            raise ValueError("not such inputs")
        return self.last(self.inner(self.first(x)).relu().mean(1))


def grows(boxes: Tensor) -> bool:
    return bool((boxes[..., 1] > boxes[..., 0]).all())


PARTICULAR = {
    "begins with one": (lambda ids: bool((ids[:, 0] == 1).all()), torch.tensor([[1, 4, 9], [1, 7, 2]])),
    "in order": (grows, torch.tensor([[3, 8], [0, 5]])),
    "this one alone": (lambda ids: ids.tolist() == [[3, 8], [0, 5]], torch.tensor([[3, 8], [0, 5]])),
    "no number below zero": (lambda x: bool((x >= 0).all()), torch.rand(2, 4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("how", PARTICULAR)
def test_inputs_of_a_kind_that_only_the_user_knows(how: str) -> None:
    torch.manual_seed(0)
    asks, inputs = PARTICULAR[how]
    net = Particular(asks, tokens=inputs.dim() == 2).eval()
    result = surgeon.shrink(net, inputs, 0.5, measure=False)
    assert result.check is not None and result.check.error < 1e-9
    said = [n for n in result.notes if "noise is none that the network takes (ValueError" in n]
    assert len(said) == (inputs.dim() == 3)
    with torch.no_grad():
        result.model.inner.weight[0].mul_(2)
    with pytest.raises(CheckFailed):
        surgeon.check(net, result.model, result.plan, inputs)


def test_a_cut_model_that_refuses_what_the_original_takes_fails() -> None:
    """On the inputs as they are it is right; read backwards they are refused, by it alone."""
    torch.manual_seed(0)
    ids = torch.tensor([[1, 4, 9], [1, 7, 2]])
    net = Particular(lambda _: True, tokens=True).eval()
    result = surgeon.shrink(net, ids, 0.5, measure=False)
    result.model.asks = lambda ids: bool((ids.numpy()[:, 0] == 1).all())
    with pytest.raises(CheckFailed, match="fails where the original runs"):
        surgeon.check(net, result.model, result.plan, ids)


class Scores(nn.Module):
    """Attention's scores, filled where the mask is. As a program where a width is written in its code."""

    def __init__(self, fill: Callable[[torch.dtype], float], *, written: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fill, self.written = nn.Linear(8, 16), nn.Linear(8, 16), fill, written

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        scores = (a.view(-1, 6, 16) if self.written else a) @ self.b(x).mT
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        return scores.masked_fill(mask, self.fill(scores.dtype))


FILLS = {
    "the least": lambda dtype: torch.finfo(dtype).min,
    "half the least": lambda dtype: torch.finfo(dtype).min / 2,
    "the greatest": lambda dtype: torch.finfo(dtype).max,
    "infinite": lambda _: -torch.inf,
}
TOKENS = draw(2, 6, 8)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("fill", FILLS)
def test_what_a_mask_fills_is_the_models_own(fill: str, written: bool) -> None:
    result = surgeon.shrink(Scores(FILLS[fill], written=written).eval(), TOKENS, 0.5, measure=False)
    assert result.way == ("program" if written else "module")
    assert result.check is not None and result.check.error < 1e-12


@pytest.mark.parametrize("fill", ["the least", "the greatest", "infinite"])
def test_what_a_mask_fills_hides_nothing(fill: str) -> None:
    net = Scores(FILLS[fill]).eval()
    slim, plan = cut(net, TOKENS)
    assert not surgeon.check(net, slim, plan, TOKENS).notes
    slim.forward = lambda x: Scores.forward(slim, x) * 1.001  # type: ignore[method-assign,arg-type]
    with pytest.raises(CheckFailed, match="the cut model is off by"):
        surgeon.check(net, slim, plan, TOKENS)


def test_the_precision_that_a_forward_asks_for_is_the_models_own() -> None:
    class Even(Scores):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x).softmax(-1)
            return scores / (scores.sum(-1, keepdim=True) + torch.finfo(scores.dtype).eps)

    told = torch.finfo
    result = surgeon.shrink(
        Even(FILLS["the least"], written=True).eval(), TOKENS, 0.5, measure=False
    )
    assert result.way == "program" and result.check is not None
    assert torch.finfo is told


def test_infinities_have_a_sign() -> None:
    a = torch.tensor([1.0, 2.0, torch.inf, torch.nan])
    assert compare([a], [a.clone()]) == 0
    assert not compare([a], [a * torch.tensor([1, 1, -1, 1])]) <= 1


def test_a_rounding_of_a_large_number_is_no_difference() -> None:
    """As of logits that an untrained network puts within a millionth of each other, far from zero."""
    a = 2 + 1e-7 * torch.linspace(0, 1, 9, dtype=torch.float64)
    assert compare([a], [a + 1e-15]) == 0
    assert compare([a], [a + 1e-8]) > 0.09
    b = torch.linspace(-1, 1, 9, dtype=torch.float64)
    assert compare([b], [b + 1e-13]) > 0
