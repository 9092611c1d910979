"""The Python API: one call from a model to a smaller one, the model untouched, everything plain data."""

import copy
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nets import NETS, draw
from torch import nn

import surgeon
from surgeon.errors import BadInput, OutOfReach
from surgeon.measure import bench
from surgeon.report import text
from surgeon.shrink import check_options, propose

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.drop(self.bn1(self.conv1(x)).relu())).relu()
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = draw(2, 3, 8, 8)


def plain(model: nn.Module, **options: object) -> surgeon.Result:
    return surgeon.shrink(model, X, **{"ratio": 0.5, "check": False, "measure": False, **options})  # type: ignore[arg-type]


class TestSignature:
    """Stable from now on: what scripts rely on."""

    def test_shrink(self) -> None:
        names = list(inspect.signature(surgeon.shrink).parameters)
        assert names[:5] == ["model", "example_inputs", "ratio", "check", "measure"]
        kinds = inspect.signature(surgeon.shrink).parameters
        assert kinds["ratio"].default is None
        assert kinds["check"].default is True
        assert kinds["measure"].default is True
        assert kinds["check"].kind is inspect.Parameter.KEYWORD_ONLY

    def test_the_public_names(self) -> None:
        for name in surgeon.__all__:
            assert getattr(surgeon, name) is not None
            assert getattr(surgeon, name).__doc__
        with pytest.raises(AttributeError):
            surgeon.check = None  # type: ignore[assignment]

    def test_a_result(self, net: Net) -> None:
        result = plain(net)
        assert isinstance(result, surgeon.Result)
        assert isinstance(result.plan, surgeon.Plan)
        assert isinstance(result.model, Net)
        assert not result.model.training
        assert result.way == "module"
        assert result.check is None
        assert result.measured is None
        assert list(result.seconds) == ["trace and couple", "score and plan", "cut"]


class TestUntouched:
    @pytest.mark.parametrize("training", [True, False])
    def test_mode_gradients_and_state(self, net: Net, training: bool) -> None:
        net.train(training)
        net.bn1.eval()
        net.conv1.weight.requires_grad_(False)
        before = copy.deepcopy(net.state_dict())
        ids = {name: id(tensor) for name, tensor in net.named_parameters()}
        hooks = net.conv1.register_forward_hook(lambda *_: None)
        surgeon.shrink(net, X, 0.5, measure=False)
        hooks.remove()
        assert net.training is training
        assert not net.bn1.training
        assert {name: id(tensor) for name, tensor in net.named_parameters()} == ids
        assert not net.conv1.weight.requires_grad
        assert net.conv2.weight.requires_grad
        assert net.conv1.out_channels == 8
        after = net.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(parameter.grad is None for parameter in net.parameters())

    def test_its_inputs_too(self, net: Net) -> None:
        x = X.clone().requires_grad_()
        plain(net)
        surgeon.shrink(net, (x,), 0.5, measure=False)
        assert torch.equal(x, X)
        assert x.grad is None

    def test_the_random_state(self, net: Net) -> None:
        torch.manual_seed(3)
        want = torch.rand(3)
        torch.manual_seed(3)
        surgeon.shrink(net, X, 0.5, measure=False)
        assert torch.equal(torch.rand(3), want)

    def test_what_the_slim_model_shares(self, net: Net) -> None:
        slim = plain(net).model
        theirs = {tensor.data_ptr() for tensor in net.state_dict().values()}
        with torch.no_grad():
            for tensor in slim.state_dict().values():
                assert tensor.data_ptr() not in theirs

    def test_what_is_frozen_stays_frozen(self, net: Net) -> None:
        net.conv1.weight.requires_grad_(False)
        slim = plain(net).model
        frozen = [name for name, p in slim.named_parameters() if not p.requires_grad]
        assert frozen == ["conv1.weight"]

    def test_the_slim_model_trains(self, net: Net) -> None:
        slim = plain(net).model.train()
        slim(X).sum().backward()
        assert all(p.grad is not None for p in slim.parameters())


class TestReport:
    def test_as_dict_is_json(self, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
        quick = bench.Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=0.2)
        monkeypatch.setattr(bench, "Budget", lambda: quick)
        result = surgeon.shrink(net, X, ratio=0.5, source="net.pth")
        data = result.as_dict()
        assert json.loads(json.dumps(data)) == json.loads(json.dumps(result.report))
        assert data["model"]["source"] == "net.pth"
        assert data["request"]["ratio"] == 0.5
        assert data["reached"]["channels"] == 0.5
        assert 0.5 < data["reached"]["params"] < 0.8
        assert data["check"]["proven"] is True
        assert data["check"]["error"] < 1e-9
        assert data["measured"]["after"]["params"] == sum(
            p.numel() for p in result.model.parameters()
        )
        assert {g["name"]: (g["size"], g["kept"]) for g in data["groups"]} == {
            "conv1": (8, 4),
            "conv2": (16, 8),
        }
        assert [x["name"] for x in data["left"]] == ["conv1:in", "fc"]
        said = result.summary()
        for line in ("channels: 50.0% removed", "groups: 2 cut, 2 left alone", "surgery: module",
                     "proven: error", "latency, onnxruntime", "peak memory"):  # fmt: skip
            assert line in said

    def test_summary_without_anything(self, net: Net) -> None:
        said = plain(net).summary()
        assert "not proven: the check was left out" in said
        assert "latency" not in said

    def test_progress_names_the_steps(self, net: Net) -> None:
        steps: list[str] = []
        surgeon.shrink(net, X, 0.5, measure=False, progress=steps.append)
        assert steps == ["trace and couple", "score and plan", "cut", "check"]

    def test_numbers_as_people_read_them(self) -> None:
        assert [text.size(n) for n in (12, 4_500, 44_700_000, 2_000_000_000)] == [
            "12 B", "4.5 kB", "44.7 MB", "2 GB",
        ]  # fmt: skip
        assert text.change(200, 100) == "-50.0 %"
        assert text.change(0, 100) == ""
        assert text.seconds(None) == "-"
        assert text.seconds(0.0123456) == "12.35 ms"


class TestOptions:
    def test_an_unknown_option(self, net: Net) -> None:
        with pytest.raises(BadInput, match="no option ratios"):
            surgeon.shrink(net, X, ratios=0.5)  # type: ignore[call-arg]

    @pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan"), float("inf"), "half", True])
    def test_a_ratio_that_is_none(self, net: Net, ratio: object) -> None:
        with pytest.raises(BadInput, match="ratio"):
            plain(net, ratio=ratio)

    def test_nothing_asked(self, net: Net) -> None:
        with pytest.raises(BadInput, match="nothing was asked"):
            surgeon.shrink(net, X)

    def test_a_ratio_and_a_limit(self, net: Net) -> None:
        with pytest.raises(BadInput, match="contradict"):
            plain(net, max_flops="0.5x")

    def test_what_is_no_model(self) -> None:
        with pytest.raises(BadInput, match=r"an nn\.Module, not dict"):
            surgeon.shrink({}, X, 0.5)  # type: ignore[arg-type]

    def test_inputs_that_do_not_fit(self, net: Net) -> None:
        with pytest.raises(BadInput, match=r"the model fails in forward.*\n.*with inputs f32"):
            surgeon.shrink(net, torch.zeros(1, 4, 8, 8), 0.5)

    def test_a_limit_out_of_reach(self, net: Net) -> None:
        with pytest.raises(OutOfReach, match="cannot be reached"):
            plain(net, ratio=None, max_params=3)

    def test_nothing_to_cut(self) -> None:
        with pytest.raises(OutOfReach, match="nothing can be cut"):
            surgeon.shrink(nn.Linear(4, 4), torch.zeros(2, 4), 0.5)

    def test_options_alone(self) -> None:
        check_options(0.5, scope="global")
        with pytest.raises(BadInput):
            check_options(0.5, scope="world")

    def test_a_criterion_of_ones_own(self, net: Net) -> None:
        def last_first(group: object, _weights: object) -> object:
            return -torch.arange(group.size).numpy()  # type: ignore[attr-defined]

        plan = plain(net, criterion=last_first).plan
        assert plan.keep["conv1.weight"][0] == (0, 1, 2, 3)
        assert plan.request["criterion"] == "last_first"

    def test_a_proposal_is_the_plan_without_the_cut(self, net: Net) -> None:
        proposal = propose(net, X, 0.5)
        assert proposal.plan == plain(net).plan

    def test_by_hand(self, net: Net) -> None:
        result = surgeon.remove(net, X, {"conv1": [0, 3], "conv2": [1]}, measure=False)
        assert result.plan.keep["conv1.weight"][0] == (1, 2, 4, 5, 6, 7)
        assert result.model.get_parameter("conv2.weight").shape == (15, 6, 3, 3)


class TestBadNumbers:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_are_said_and_go_first(self, net: Net, bad: float) -> None:
        with torch.no_grad():
            net.conv1.weight[5] = bad
        result = surgeon.shrink(net, X, 0.5, measure=False)
        assert any("NaN or infinite" in note for note in result.notes)
        assert 5 not in result.plan.keep["conv1.weight"][0]


class TestApply:
    def test_replays(self, net: Net) -> None:
        result = plain(net)
        slim = surgeon.apply(result.plan, net)
        assert not slim.training
        assert torch.equal(slim(X), result.model(X))

    def test_a_plan_survives_its_file(self, net: Net, tmp_path: Path) -> None:
        plan = plain(net).plan
        plan.save(tmp_path / "plan.json")
        assert surgeon.Plan.load(tmp_path / "plan.json") == plan

    def test_trace_shows_the_groups(self, net: Net) -> None:
        traced = surgeon.trace(net, X)
        assert [g.name for g in traced.groups] == ["conv1", "conv1:in", "conv2", "fc"]
        assert traced.unknown == ()


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("name", [name for name in NETS if name != "nothing_to_cut"])
def test_every_hard_case_is_proven(name: str, scope: str) -> None:
    case = NETS[name]
    model = case.build()
    result = surgeon.shrink(model, case.inputs(), ratio=0.5, scope=scope, measure=False)
    assert result.check is not None
    assert result.check.error <= result.check.tolerance
    assert result.plan.removed > 0
    if scope == "local":
        total = sum(g.size for g in result.plan.groups)
        assert 0.3 < result.plan.removed / total <= 0.6


class TestKinds:
    """Which channels may go, and which stay equal in number."""

    def test_heads_and_head_dim_are_separate_choices(self) -> None:
        case = NETS["separate_qkv"]
        model, inputs = case.build(), case.inputs()
        for wanted, kept in (
            ("heads", {"q:heads": 2}),
            ("head_dim", {"q:head_dim": 4, "v:head_dim": 4}),
        ):
            result = surgeon.shrink(model, inputs, 0.5, cut=wanted, measure=False)
            assert result.check is not None
            assert {g.name: g.kept for g in result.plan.groups} == kept
            assert result.plan.request["cut"] == (wanted,)
        both = surgeon.shrink(model, inputs, 0.5, cut=["head_dim", "heads"], measure=False)
        assert both.model.get_parameter("q.weight").shape == (2 * 4, 32)

    def test_a_kind_that_is_none(self) -> None:
        with pytest.raises(
            BadInput, match="cut 'hed' is no kind of channels\nhint: did you mean heads"
        ):
            check_options(0.5, cut="mlp,hed")

    def test_an_even_split_stays_one_in_the_module(self) -> None:
        case = NETS["even_split"]
        model, inputs = case.build(), case.inputs()
        result = surgeon.shrink(model, inputs, 0.4, scope="global", measure=False)
        assert result.way == "module" and result.check is not None
        by_hand = surgeon.remove(model, inputs, {"enter": [0, 1, 2, 5, 7]}, measure=False)
        assert by_hand.way == "program" and by_hand.check is not None

    def test_pads_go_with_the_rows_and_columns_that_they_lie_in(self) -> None:
        case = NETS["padded_groups"]
        for options in (
            {},
            {"scope": "global", "criterion": "random"},
            {"ratio_for": {"stem#2": 0.5}},
        ):
            result = surgeon.shrink(case.build(), case.inputs(), 0.5, measure=False, **options)  # type: ignore[arg-type]
            assert result.check is not None and result.plan.removed


class Tied(nn.Module):
    """A language model whose head is a function that it keeps, as x_transformers ties it to the embedding."""

    def __init__(self, make: Callable[[Any, torch.Tensor], Any], literal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.up, self.down = nn.Embedding(40, 32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.to_logits, self.literal = make(self, self.embed.weight), literal

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        wide = self.up(x).relu()
        x = x + self.down(wide.view(*ids.shape, 48) if self.literal else wide)
        return self.to_logits(x)


def _logits(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.t()


TYING: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "module": lambda m, w: lambda x: x @ m.embed.weight.t(),
    "tensor": lambda m, w: lambda x: x @ w.t(),
    "partial": lambda m, w: partial(_logits, weight=w),
}


@pytest.mark.parametrize("make", TYING.values(), ids=TYING.keys())
class TestTiedByAFunction:
    IDS = torch.arange(12).view(2, 6)

    @pytest.mark.parametrize("way", ["module", "program"])
    def test_it_is_cut_and_stays_tied(self, make: Callable[..., Any], way: str) -> None:
        model = Tied(make, literal=way == "program").eval()
        result = surgeon.shrink(model, self.IDS, 0.5, measure=False)
        assert result.way == way and result.check is not None and result.check.dtype == "float64"
        assert [h.why for h in result.reach.held] == []
        slim = result.model
        assert slim.get_parameter("embed.weight").shape == (40, 16)
        assert sum(p.numel() for p in slim.parameters()) == 40 * 16 + 17 * 24 + 25 * 16
        assert sum(b.numel() for b in slim.buffers()) == 0  # no copy of the weight beside it
        want = slim(self.IDS)
        with torch.no_grad():
            model.embed.weight.zero_()
            assert torch.equal(slim(self.IDS), want)
            slim.get_parameter("embed.weight").zero_()
            assert not slim(self.IDS).any()

    def test_it_is_saved_and_loaded(self, make: Callable[..., Any], tmp_path: Path) -> None:
        result = surgeon.shrink(Tied(make).eval(), self.IDS, 0.5, measure=False)
        surgeon.save(result, tmp_path / "slim.pth")
        fresh = Tied(make).eval()
        for back in (
            surgeon.load(tmp_path / "slim.pth"),
            surgeon.load(tmp_path / "slim.pth", model=fresh),
        ):
            fresh.embed.weight.data.zero_()
            assert torch.equal(back(self.IDS), result.model(self.IDS))
            back.get_parameter("embed.weight").data.zero_()
            assert not back(self.IDS).any()

    @pytest.mark.parametrize("in_place", [False, True])
    def test_it_is_cut_in_steps_while_it_is_trained(
        self, make: Callable[..., Any], in_place: bool
    ) -> None:
        model = Tied(make)
        pruner = surgeon.Pruner(model, self.IDS, 0.5, steps=2, in_place=in_place)
        for _ in range(2):
            pruner.step()
        assert (pruner.model is model) is in_place
        assert pruner.model.get_parameter("embed.weight").shape == (40, 16)
        pruner.result.model.get_parameter("embed.weight").data.zero_()
        assert pruner.model(self.IDS).any()
        pruner.model.get_parameter("embed.weight").data.zero_()
        assert not pruner.model(self.IDS).any()


def test_a_function_that_cannot_be_given_the_copys_own_is_noted() -> None:
    def make(module: Any, weight: torch.Tensor) -> Any:
        held = SimpleNamespace(weight=weight)
        return lambda x: x @ held.weight.t()

    result = surgeon.shrink(Tied(make).eval(), TestTiedByAFunction.IDS, 0.5, measure=False)
    assert any(n.startswith("to_logits has a function that holds parts") for n in result.notes)
