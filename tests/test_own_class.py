"""A network keeps its class where little stays whole for it; a program is cut where that would be much, or where one is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.cli.main import run
from surgeon.pipeline.followed import OWN_FORWARD

X = draw(8, 6)


class Tied(nn.Module):
    """One of its widths is written into the code (`width`); another is `free`."""

    def __init__(self, free: int) -> None:
        super().__init__()
        inner = self.width()
        torch.manual_seed(0)
        self.stem, self.tied = nn.Linear(6, 16), nn.Linear(16, inner)
        self.free, self.last = nn.Linear(inner, free), nn.Linear(free, free)
        self.out = nn.Linear(free, 3)

    def width(self) -> int:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(self.stem(x).relu()).view(-1, self.width()).relu()
        return self.out(self.last(self.free(x).relu()).relu())


class Few(Tied):
    """What is tied holds few of the parameters."""

    def __init__(self) -> None:
        super().__init__(200)

    def width(self) -> int:
        return 8


class Many(Tied):
    """What is tied holds most of them."""

    def __init__(self) -> None:
        super().__init__(8)

    def width(self) -> int:
        return 200


class Several(nn.Module):
    """Two widths, by two lines: where they are written down, few parameters each, and more than a quarter together."""

    def __init__(self, *written: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one = nn.Linear(6, 32), nn.Linear(32, 32)
        self.two, self.free = nn.Linear(32, 32), nn.Linear(32, 32)
        self.last, self.out = nn.Linear(32, 32), nn.Linear(32, 3)
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.one(self.stem(x).relu())
            .view(-1, 32 if "one" in self.written else self.one.out_features)
            .relu()
        )
        x = self.two(x).view(-1, 32 if "two" in self.written else self.two.out_features).relu()
        return self.out(self.last(self.free(x).relu()).relu())


class Spread(nn.Module):
    """Its convolution holds few parameters, and most of the others lie behind it: each of its channels is 16 of theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.head, self.out = nn.Linear(128, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x).relu()).relu()
        return self.out(self.head(x.view(-1, 128)).relu())


class Halves(nn.Module):
    """Its two halves are as wide as what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.both(x), (x.shape[-1], x.shape[-1]), -1)
        return x + self.out(a * b.sigmoid())


class Stages(nn.Module):
    """The width of the last stage is that of the output, and stays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.second = nn.Linear(6, 64), Halves(64), Halves(64)
        self.down, self.last = nn.Linear(64, 16), Halves(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.down(self.second(self.first(self.stem(x)))))


class Scaled(nn.Module):
    """Keys are normalised, and then divided by a number that follows head_dim: no weight can take that up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.head_dim = 4, 16
        self.qk, self.v, self.out = nn.Linear(6, 64), nn.Linear(6, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, v = (
            f(x).view(*x.shape[:-1], self.heads, self.head_dim).transpose(1, 2)
            for f in (self.qk, self.v)
        )
        k = q / q.norm(dim=-1, keepdim=True) / self.head_dim**0.5
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Correlated(nn.Module):
    """The product of two positions' features is divided by a tensor that the code makes of their width (RAFT)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.features = nn.Linear(6, 200), nn.Linear(200, 12)
        self.free, self.out = nn.Linear(7, 200), nn.Linear(200, 3)

    def forward(self, x: Tensor) -> Tensor:
        f = self.features(self.stem(x).relu())
        near = f @ f.mT / torch.sqrt(torch.tensor(f.shape[-1]))
        return self.out(self.free(near).relu())


class Lines(nn.Module):
    """Six small layers, each of whose widths a line of its own writes down, beside a large one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.free, self.back = nn.Linear(6, 300), nn.Linear(300, 300), nn.Linear(300, 8)
        self.small = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.back(self.free(self.stem(x).relu()).relu()).relu()
        x = self.small[0](x).view(-1, 8).relu()
        x = self.small[1](x).view(-1, 8).tanh()
        x = self.small[2](x).view(-1, 8).sigmoid()
        x = self.small[3](x).view(-1, 8).sin()
        x = self.small[4](x).view(-1, 8).cos()
        return self.out(self.small[5](x).view(-1, 8).exp())


def shrunk(model: nn.Module, ratio: float | None = 0.5, **options: Any) -> surgeon.Result:
    result = surgeon.shrink(model, X, ratio, round_to=1, measure=False, **options)
    assert result.check is not None
    return result


def whole(result: surgeon.Result) -> dict[str, str]:
    return {x.name: x.why for x in result.plan.left if x.why.startswith(OWN_FORWARD)}


def kept(result: surgeon.Result) -> dict[str, int]:
    return {g.name: g.kept for g in result.plan.groups}


def test_little_stays_whole_and_the_class_is_kept():
    result = shrunk(Few())
    assert result.way == "module" and type(result.model) is Few
    assert kept(result) == {"stem": 8, "free": 100, "last": 100}
    assert whole(result)["tied"].startswith(f"{OWN_FORWARD} aten.view.default, at the model itself")
    notes = [n for n in result.notes if n.startswith(OWN_FORWARD)]
    assert len(notes) == 1 and "this stays whole: tied" in notes[0] and "--program" in notes[0]
    assert result.plan.request.get("program") is None


def test_much_is_cut_as_a_program():
    result = shrunk(Many())
    assert result.way == "program"
    assert kept(result) == {"stem": 8, "tied": 100, "free": 4, "last": 4}
    assert not whole(result) and not any(n.startswith(OWN_FORWARD) for n in result.notes)


def test_what_lies_behind_counts():
    result = surgeon.shrink(Spread(), draw(2, 3, 4, 4), 0.5, round_to=1, measure=False)
    assert result.way == "program"
    assert kept(result) == {"stem": 4, "conv": 4, "head": 32}


def test_a_program_is_cut_where_it_is_asked_for():
    result = shrunk(Few(), program=True)
    assert result.way == "program"
    assert kept(result) == {"stem": 8, "tied": 4, "free": 100, "last": 100}
    assert result.plan.request["program"] is True


def test_no_program_is_cut_where_none_is_wanted():
    result = shrunk(Many(), program=False)
    assert result.way == "module" and type(result.model) is Many
    assert kept(result) == {"stem": 8, "free": 4, "last": 4}
    assert "--program" not in " ".join(result.notes)


def test_asking_for_a_program_changes_nothing_where_the_module_follows():
    plain = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    for program in (True, False, None):
        assert shrunk(plain, program=program).way == "module"


def test_a_line_that_the_forward_went_by_is_not_in_its_way():
    """The same line follows in the stages before, whose widths go with what comes in."""
    result = shrunk(Stages())
    assert result.way == "module"
    assert {name.partition("#")[0] for name in whole(result)} == {"last.both"}
    assert kept(result)["first.both"] == kept(result)["second.both"] == 32


def test_heads_are_counted_where_they_go_instead_of_what_stays():
    result = surgeon.shrink(Scaled(), draw(2, 7, 6), 0.5, round_to=1, measure=False)
    assert result.way == "module"
    assert all(name.endswith(":head_dim") for name in whole(result))
    assert kept(result) == {"qk:heads": 2}


def test_what_a_tensor_of_a_width_scales_is_what_stays():
    """Not all that the module holds, though the tensor itself was made of nothing that is cut."""
    result = surgeon.shrink(Correlated(), draw(2, 7, 6), 0.5, round_to=1, measure=False)
    assert result.way == "module" and {n.partition(":")[0] for n in whole(result)} == {"features"}
    assert kept(result) == {"stem": 100, "free": 100}


def test_there_are_as_many_rounds_as_there_are_small_lines():
    result = shrunk(Lines())
    assert result.way == "module" and len(whole(result)) == 6
    assert kept(result) == {"stem": 150, "free": 150, "back": 4}


def test_what_stays_is_counted_over_all_rounds():
    """Each line alone would be worth it: both together are not, and the plan of a program is the first one."""
    for name in ("one", "two"):
        alone = shrunk(Several(name))
        assert alone.way == "module" and whole(alone).keys() == {name}
    result = shrunk(Several("one", "two"))
    assert result.way == "program"
    assert kept(result) == dict.fromkeys(("stem", "one", "two", "free", "last"), 16)
    both = shrunk(Several("one", "two"), program=False)
    assert both.way == "module" and whole(both).keys() == {"one", "two"}


@pytest.mark.parametrize(
    ("ratio", "options"),
    [
        (None, {"ratio_for": {"tied": 0.5, "free": 0.5}}),
        (0.5, {"ratio_for": {"tied": 0.25}}),
        (0.5, {"remove": {"tied": [0, 1]}}),
        (0.5, {"remove": {"free:in": [0, 1]}}),
    ],
)
def test_what_is_named_goes(ratio: float | None, options: dict[str, Any]):
    result = shrunk(Few(), ratio, **options)
    assert result.way == "program"
    assert kept(result)["tied"] < 8


def test_what_is_named_and_not_followed_is_refused_without_a_program():
    with pytest.raises(
        surgeon.SurgeonError, match=r"does not follow.*as a program: none was asked for"
    ) as caught:
        shrunk(Few(), None, ratio_for={"tied": 0.5}, program=False)
    assert "test_own_class.py:" in str(caught.value.hint)


def test_a_limit_that_needs_all_of_it_is_met_by_a_program():
    """With 40 parameters all that is free has one channel left; with 19 all that is tied, too."""
    assert shrunk(Few(), None, max_params=100).way == "module"
    assert shrunk(Few(), None, max_params=30).way == "program"
    with pytest.raises(surgeon.OutOfReach, match=f"cannot be reached.*{OWN_FORWARD} aten.view"):
        shrunk(Few(), None, max_params=30, program=False)


def test_in_steps():
    result = surgeon.shrink(Few(), X, 0.5, steps=2, round_to=1, measure=False)
    assert result.way == "module" and kept(result) == {"stem": 8, "free": 100, "last": 100}
    result = surgeon.shrink(Few(), X, 0.5, steps=2, round_to=1, measure=False, program=True)
    assert result.way == "program" and kept(result) == {
        "stem": 8,
        "tied": 4,
        "free": 100,
        "last": 100,
    }


def test_a_plan_is_replayed_as_it_was_cut():
    for program in (None, True):
        made = shrunk(Few(), program=program)
        again = surgeon.apply(made.plan, Few(), X)
        torch.testing.assert_close(again(X), made.model(X))


@pytest.mark.parametrize(
    ("flags", "way"), [([], "module"), (["--program"], "program"), (["--no-program"], "module")]
)
def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], way: str
):
    monkeypatch.chdir(tmp_path)
    made = ["--input", "8,6", "--ratio", "0.5", "--round-to", "1", "--no-measure", "--no-onnx"]
    assert run(["shrink", f"{__file__}:Few", *made, *flags]) == 0
    report = json.loads(next(tmp_path.glob("*-slim/report.json")).read_text())
    assert report["way"] == way


def test_a_norm_without_weights_that_turns_its_tensor_round():
    class Norm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    norm = Norm(16, elementwise_affine=False)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm, nn.Conv2d(16, 5, 1))
    result = surgeon.shrink(net, torch.randn(2, 3, 9, 9), 0.5, measure=False)
    assert result.way == "module", result.why
    assert result.model[1].normalized_shape == (8,)


class OneNumber(nn.Module):
    """Its attention's width is that of the input, so that all of it stays; where a view of v fails, it is q that was cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.part = 4, 16
        self.q, self.k, self.v, self.p = (nn.Linear(64, 64) for _ in range(4))
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).view(b, n, self.heads, self.part).transpose(1, 2)
        k = self.k(x).view(b, n, self.heads, self.part).transpose(1, 2)
        v = self.v(x).view(b, n, self.heads, self.part).transpose(1, 2)
        x = x + self.p(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.down(self.up(x).relu())


def test_what_another_number_follows_stays_and_no_more():
    result = surgeon.shrink(OneNumber(), torch.randn(2, 5, 64), 0.5, program=False, measure=False)
    assert result.way == "module" and result.model.up.out_features == 64
    assert result.model.q.out_features == result.model.v.out_features == 64
