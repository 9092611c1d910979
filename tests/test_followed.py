"""Where neither surgery follows at a place, the groups that are cut there stay, and the rest is cut and proven."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.cut import NotFollowed, cut
from surgeon.cut.program import NoProgram
from surgeon.errors import CheckFailed
from surgeon.loop import Pruner
from surgeon.measure.latency import Budget
from surgeon.pipeline import limited, successive
from surgeon.pipeline.followed import GONE_WRONG, NOT_FOLLOWED
from surgeon.pipeline.followed import held as without
from surgeon.pipeline.replay import apply_checked
from surgeon.pipeline.traced import Traced


class Branching(nn.Module):
    """Looks at its data, so that torch.export refuses it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if bool((x > 1e6).any()) else x


class Listed(nn.Module):
    """One size is an attribute, which is found; another is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look = Branching()
        self.stem, self.tied = nn.Linear(6, 16), nn.Linear(16, 12)
        self.free, self.out = nn.Linear(12, 20), nn.Linear(20, 3)
        self.width = 16

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.look(x)).view(-1, self.width).relu()
        x = self.tied(x).view(-1, 12).relu()
        return self.out(self.free(x).relu())


class Block(nn.Module):
    """Its inner width is read from the tensor that comes in, and not from its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.back = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.inner(x).view(-1, x.shape[-1]).relu())


class Blocks(nn.Module):
    """Two of them, and a layer that has nothing to do with it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look, self.stem = Branching(), nn.Linear(6, 16)
        self.blocks = nn.Sequential(Block(), Block())
        self.free, self.out = nn.Linear(16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.free(self.blocks(self.stem(self.look(x)))).relu())


X = draw(8, 6)


def line_of(kind: type[nn.Module], text: str) -> int:
    lines, first = inspect.getsourcelines(kind.forward)
    return first + next(i for i, line in enumerate(lines) if text in line)


def held(result: surgeon.Result) -> dict[str, str]:
    return {x.name: x.why for x in result.plan.left if x.why.startswith(NOT_FOLLOWED)}


def kept(result: surgeon.Result) -> dict[str, int]:
    return {g.name: g.kept for g in result.plan.groups}


def test_the_rest_is_cut_and_the_reason_is_said():
    result = surgeon.shrink(Listed(), X, 0.5, round_to=1, measure=False)
    assert result.way == "module"
    assert result.check is not None
    assert kept(result) == {"stem": 8, "free": 10}
    place = f"the model itself (test_followed.py:{line_of(Listed, 'self.tied(x)')})"
    assert held(result) == {"tied": f"{NOT_FOLLOWED} aten.view.default, at {place}"}
    assert (
        f"{NOT_FOLLOWED} aten.view.default, at {place}, so this stays whole: tied" in result.notes
    )
    assert any(n.startswith("not as a program either: torch.export cannot") for n in result.notes)
    assert result.model(X).shape == (8, 3)


def test_all_that_run_the_line_stay_at_once():
    """Two blocks, one plan more: `free` is the only other layer beside the stream."""
    result = surgeon.shrink(Blocks(), X, 0.5, ignore=["stem"], round_to=1, measure=False)
    assert kept(result) == {"free": 10}
    assert held(result).keys() == {"blocks.0.inner", "blocks.1.inner"}
    assert sum(note.startswith(NOT_FOLLOWED) for note in result.notes) == 1


def test_a_size_read_elsewhere_is_found_in_the_modules_that_run_the_line():
    result = surgeon.shrink(Blocks(), X, 0.5, ignore=["blocks.*.inner"], round_to=1, measure=False)
    assert kept(result) == {"free": 10}
    assert held(result).keys() == {"stem"}


def test_a_layer_that_is_named_is_refused_with_its_place():
    said = f"'tied' cannot be cut: {NOT_FOLLOWED} aten.view.default, at the model itself"
    with pytest.raises(surgeon.OutOfReach, match=said) as error:
        surgeon.shrink(Listed(), X, ratio_for={"tied": 0.5})
    assert str(error.value.hint).startswith("test_followed.py:")


def test_a_limit_is_met_by_the_rest():
    result = surgeon.shrink(Listed(), X, max_params="0.8x", round_to=1, measure=False)
    assert held(result).keys() == {"tied"}
    sizes = [sum(p.numel() for p in m.parameters()) for m in (Listed(), result.model)]
    assert 0.7 * sizes[0] < sizes[1] <= 0.8 * sizes[0]


def test_a_limit_that_is_measured_is_met_by_the_rest(monkeypatch: pytest.MonkeyPatch):
    """Of a network that can be exported, or there would be no file to measure; its program is what is refused."""

    def refuse(*_: object) -> None:
        raise NoProgram("no program")

    monkeypatch.setattr(surgeon.cut.choose, "cut_program", refuse)
    for name in ("_BUDGET", "_BESIDE"):
        monkeypatch.setattr(limited, name, Budget(min_s=0.1, max_s=0.3))
    model = Listed()
    model.look = nn.Identity()
    result = surgeon.shrink(model, X, max_size="0.9x", round_to=1)
    assert held(result).keys() == {"tied"}
    assert result.limited is not None and result.limited.best.met
    assert sum(note.startswith(NOT_FOLLOWED) for note in result.notes) == 1


def test_a_limit_that_needs_what_stays_says_so():
    with pytest.raises(surgeon.OutOfReach, match=f"cannot be reached.*{NOT_FOLLOWED} aten.view"):
        surgeon.shrink(Listed(), X, max_params="0.05x")


def test_in_steps():
    result = surgeon.shrink(Listed(), X, 0.5, steps=2, round_to=1, measure=False)
    assert kept(result) == {"stem": 8, "free": 10}
    assert held(result).keys() == {"tied"}
    assert sum(note.startswith(NOT_FOLLOWED) for note in result.notes) == 1


def test_in_a_loop():
    pruner = Pruner(Listed(), X, 0.5, steps=2, round_to=1)
    while not pruner.done:
        pruner.step()
    assert kept(pruner.result) == {"stem": 8, "free": 10}
    assert any(note.startswith(NOT_FOLLOWED) for note in pruner.notes)


def test_the_plan_is_replayed_as_any_other():
    model = Listed()
    result = surgeon.shrink(model, X, 0.5, round_to=1, measure=False)
    again = surgeon.apply(result.plan, model, X)
    assert torch.equal(again(X), result.model(X))


def test_a_step_that_fails_leaves_what_was(monkeypatch: pytest.MonkeyPatch):
    pruner = Pruner(Listed(), X, 0.5, steps=1, round_to=1)
    before = pruner._cuts.traced, pruner._cuts.notes

    def once(traced: Traced, attempt: Callable[[Traced], object], *_: object):
        return attempt(replace(traced, notes=(*traced.notes, "narrower")))

    monkeypatch.setattr(successive, "followed", once)
    with pytest.raises(NotFollowed):
        pruner.step()
    assert (pruner._cuts.traced, pruner._cuts.notes) == before


class Likewise(Listed):
    """The same on a line of its own."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(self.stem(self.look(x)).relu()).view(-1, 12)
        return self.out(self.free(x.relu()).relu())


class Twice(nn.Module):
    """Two networks, each with a line of code that does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = Listed(), Likewise(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.one(x), self.two(x)], 1))


def test_a_program_that_the_plan_does_not_fit_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def unfit(_model: nn.Module, _inputs: object, plan: surgeon.Plan) -> None:
        asked.append(plan)
        raise surgeon.BadInput("the plan cuts what must stay")

    monkeypatch.setattr(surgeon.cut.choose, "cut_program", unfit)
    result = surgeon.shrink(Twice(), X, ratio=0.5, round_to=1, measure=False)
    assert result.way == "module"
    assert len(asked) > 1  # with each plan that the module did not follow
    assert len({str(plan.keep) for plan in asked}) == len(asked)


class Chunks(nn.Module):
    """A size is written into a split, whose later chunks nobody reads; another is asserted."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Conv2d(3, 64, 1), nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x).relu().split(16, 1)[0]
        other = self.b(x).relu()
        if self.tied:
            assert other.shape[1] == 16
            return self.o(first * 1) + other.mean()
        return self.o(first + other)


@pytest.mark.parametrize("tied", [True, False])
def test_fewer_results_than_planned_are_no_crash(tied: bool):
    positions = {"a": [*range(16, 24), *range(32, 40), *range(48, 56)]} | (
        {"b": [0, 1]} if tied else {}
    )
    x = torch.randn(2, 3, 5, 5)
    result = surgeon.remove(Chunks(tied).eval(), x, positions, measure=False)
    assert result.check is not None and result.model(x).shape == (2, 4, 5, 5)


def test_a_first_layer_of_a_forward_that_looks_at_numbers_meets_its_input():
    left = {x.name: x.why for x in surgeon.propose(Listed(), X, 0.5).plan.left}
    assert "meets the model's input" in left["stem:in"]


def test_found_in_a_later_step():
    """The first removes one of the 20 channels of `free` and none of the 12 of `tied`."""
    pruner = Pruner(Listed(), X, 0.06, steps=2, round_to=1)
    pruner.step()
    assert kept(pruner.result) == {"stem": 16, "tied": 12, "free": 19}
    pruner.step()
    assert kept(pruner.result) == {"stem": 15, "free": 19}
    assert held(pruner.result).keys() == {"tied"}


def test_the_place_is_the_last_that_any_trial_came_to_and_what_went_before_cannot_be_held():
    traced = surgeon.trace(Listed(), X)
    plan = surgeon.propose(Listed(), X, 0.5, round_to=1).plan
    with pytest.raises(NotFollowed) as caught:
        cut(traced.model, traced.inputs, traced.coupling, plan)
    error = caught.value
    assert error.at is not None
    assert "4x12" in error.message  # of the layer behind the view that an attribute follows
    assert traced.graph.nodes[error.at].source.endswith(f":{line_of(Listed, 'self.tied(x)')}")
    narrower = without(traced, error)
    assert narrower is not None and "tied" in narrower.notes[-2]
    assert without(traced, error, {"tied"}) is None


class ScaledByTensor(nn.Module):
    """Attention whose scale is a tensor made of head_dim: no number of an op, and no weight that could take it up."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(f(x)) for f in (self.q, self.k, self.v))
        k = k / torch.sqrt(torch.tensor(q.size(-1), dtype=torch.float))
        return self.o((q @ k.transpose(-1, -2)).softmax(-1).matmul(v).transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), 4, -1).transpose(1, 2)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look, self.stem, self.attend = Branching(), nn.Linear(8, 32), ScaledByTensor()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(self.stem(self.look(x)))
        return self.down(self.up(x).relu())


def test_what_only_the_oracle_finds_wrong_stays_too():
    result = surgeon.shrink(Scaled().eval(), torch.randn(2, 6, 8), 0.5, measure=False)
    assert result.way == "module"
    assert result.check is not None
    assert result.model.up.weight.shape[0] == 32
    assert result.model.attend.q.weight.shape[0] == 32
    assert any(f"{GONE_WRONG} aten.lift_fresh.default, at attend" in n for n in result.notes)


def test_what_the_oracle_finds_wrong_is_raised_where_the_plan_is_given(
    monkeypatch: pytest.MonkeyPatch,
):
    model, x = Scaled().eval(), torch.randn(2, 6, 8)
    plan = surgeon.propose(model, x, 0.5).plan
    with pytest.raises(CheckFailed, match="first difference"):
        apply_checked(plan, model, x, measure=False)
    monkeypatch.setattr("surgeon.pipeline.followed._PLANS", 1)
    monkeypatch.setattr("surgeon.pipeline.followed._ALONE", 1)
    with pytest.raises(CheckFailed, match="first difference"):
        surgeon.shrink(model, x, 0.5, measure=False)


class Obstacles(nn.Module):
    """Ten lines, each with a width of its own that the code writes out, between layers that are free."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look = Branching()
        self.tied = nn.ModuleList(nn.Linear(6, 8 + 2 * k) for k in range(10))
        self.free, self.out = nn.Linear(170, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.look(x)
        a, b, c, d, e, f, g, h, i, j = (layer(x) for layer in self.tied)
        a = a.view(-1, 8)
        b = b.view(-1, 10)
        c = c.view(-1, 12)
        d = d.view(-1, 14)
        e = e.view(-1, 16)
        f = f.view(-1, 18)
        g = g.view(-1, 20)
        h = h.view(-1, 22)
        i = i.view(-1, 24)
        j = j.view(-1, 26)
        return self.out(self.free(torch.cat([a, b, c, d, e, f, g, h, i, j], 1).relu()).relu())


def test_where_there_is_no_program_as_many_plans_are_made_as_it_takes():
    result = surgeon.shrink(Obstacles(), X, 0.5, round_to=1, measure=False)
    assert result.way == "module" and kept(result) == {"free": 20}
    assert len(held(result)) == 10


class Points(nn.Module):
    """What is found is described, and put into a table of a width that the code writes out (SuperPoint)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.score, self.wide = nn.Linear(6, 12), nn.Linear(6, 16)
        self.last, self.out = nn.Linear(12, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = (self.last(self.score(x).relu())[:, 0] > 0).nonzero()[:, 0]
        table = torch.zeros(len(x), 16)
        table[: len(found)] = self.wide(x)[found]
        return self.out(table)


def test_a_count_that_the_data_decide_is_not_what_stands_in_the_way():
    result = surgeon.shrink(Points(), draw(64, 6), 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    assert kept(result) == {"score": 6}
    reasons = [*result.notes, *(x.why for x in result.plan.left)]
    assert any("aten.zeros" in text for text in reasons)
    assert not any("nonzero" in text for text in reasons)


def registers() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification

    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, image_size=32, patch_size=8,
        num_labels=5, num_register_tokens=3,
    )  # fmt: skip
    return Dinov2WithRegistersForImageClassification(config), {
        "pixel_values": torch.randn(2, 3, 32, 32)
    }


def experts() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import PhimoeConfig, PhimoeForCausalLM

    config = PhimoeConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        num_hidden_layers=2, vocab_size=60, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    tokens = torch.randint(3, 60, (2, 10))
    return PhimoeForCausalLM(config), {"input_ids": tokens}


@pytest.mark.parametrize("net", [registers, experts])
def test_a_program_that_couples_more_than_the_module_is_no_end(net: Callable[[], tuple]):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, inputs = net()
    result = surgeon.shrink(model.eval(), inputs, 0.5, measure=False)
    assert result.way == "module"
    assert result.check is not None
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, result.model))
    assert after < 0.7 * before


class ExportsOneSide(Listed):
    """Its program never asks what its forward asks of every input."""

    def __init__(self) -> None:
        super().__init__()
        self.look = Aside()


class Aside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and bool((x > 1e6).any()):
            return x * 2
        return x


def test_a_program_with_one_side_only_is_none():
    """The program can be cut, and is right on these inputs; on others the network does something else."""
    result = surgeon.shrink(ExportsOneSide(), X, 0.5, round_to=1, measure=False)
    assert result.way == "module"
    assert kept(result) == {"stem": 8, "free": 10}
    assert held(result).keys() == {"tied"}
