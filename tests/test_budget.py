"""From what was asked to channels: rounding, scopes, globs, positions, limits, and what it all costs."""

from functools import cache

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from nets import NETS
from test_couple import coupled
from torch import nn

from surgeon.budget import Cost, Limit, Request, Total, choose
from surgeon.budget.align import Near, block_of_this_cpu, keep_count
from surgeon.budget.choose import Choice
from surgeon.couple import Coupling, couple
from surgeon.cut import cut
from surgeon.errors import BadInput, OutOfReach
from surgeon.measure.count import flops, parameters
from surgeon.planning import make_plan
from surgeon.score import Weights, scores_of
from surgeon.trace.record import record
from surgeon.trace.tensors import named_state

torch.set_num_threads(1)

CNNS = ("resnet18", "mobilenet_v2", "densenet121")
ZOO = ("resnet18", "mobilenet_v2", "regnet_y_400mf", "convnext_tiny")
IMAGE = (torch.zeros(2, 3, 64, 64),)


@cache
def built(name: str) -> nn.Module:
    if name in NETS:
        return NETS[name].build()
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


@cache
def known(name: str) -> Coupling:
    return coupled(name) if name in NETS else couple(record(built(name), IMAGE))


def ask(name: str, **options) -> Choice:
    coupling = known(name)
    request = Request(**options)
    weights = Weights(named_state(built(name)), request.by, request.seed)
    return choose(coupling, scores_of(coupling.groups, weights, request.criterion)[0], request)


def gone(choice: Choice) -> dict[str, int]:
    return {n: len(c) for n, c in choice.removed.items()}


def total(name: str, choice: Choice) -> Total:
    coupling = known(name)
    atoms = [coupling.group(n).atoms[c] for n, c in choice.removed.items()]
    return Cost(coupling).total(coupling.removed(np.concatenate([np.zeros(0, np.int64), *atoms])))


def whole(name: str) -> Total:
    return total(name, Choice({}, ()))


# --- how many ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "ratio", "step", "kept"),
    [
        (64, 0.5, 1, 32), (5, 0.99, 1, 1), (5, 0.5, 1, 2), (3, 0.5, 1, 1), (2, 0.5, 1, 1), (10, 0.04, 1, 10),
        (64, 0, 8, 64), (30, 0.5, 8, 16), (12, 0.5, 8, 8), (7, 0.5, 8, 3), (64, 0.99, 16, 16), (20, 0.01, 8, 16),
    ],
)  # fmt: skip
def test_how_many_are_kept(size: int, ratio: float, step: int, kept: int):
    assert keep_count(size, ratio, step) == kept


@given(st.integers(1, 300), st.floats(0, 1, exclude_max=True), st.sampled_from([1, 4, 8, 16]))
def test_at_least_one_is_kept_and_multiples_where_they_fit(size: int, ratio: float, step: int):
    kept = keep_count(size, ratio, step)
    assert 1 <= kept <= size
    if ratio and step > 1 and size >= step:
        assert kept % step == 0
    if step == 1:
        assert kept == 1 or abs(kept - size * (1 - ratio)) <= 0.5 + 1e-9


def test_the_block_of_this_cpu_is_one_that_kernels_have():
    assert block_of_this_cpu() in (4, 8, 16)


# --- what may be asked -------------------------------------------------------------------------

REFUSED = {
    r"ratio 1 is outside \[0, 1\)": {"ratio": 1.0},
    r"ratio -0.1 is outside \[0, 1\)": {"ratio": -0.1},
    r"ratio nan is not a number": {"ratio": float("nan")},
    r"ratio 'half' is not a number": {"ratio": "half"},
    r"ratio True is not a number": {"ratio": True},
    r"ratio_for stem: ratio 1.5 is outside": {"ratio_for": {"stem": 1.5}},
    r"scope 'everywhere' does not exist\nhint: one of local, global, isomorphic": {"ratio": 0.5, "scope": "everywhere"},
    r"by 'row' does not exist": {"ratio": 0.5, "by": "row"},
    r"a ratio, a threshold and a limit contradict each other": {"ratio": 0.5, "max_flops": Limit(0.5, True)},
    r"cut 'head' is no kind of channels\nhint: did you mean heads\? there are heads, head_dim, width, mlp": {"ratio": 0.5, "cut": ("head",)},
    r"equal 'mpl' is no kind of channels\nhint: did you mean mlp": {"ratio": 0.5, "equal": ("mpl",)},
    r"round_to 0 must be a positive number or 'auto'": {"ratio": 0.5, "round_to": 0},
    r"nothing was asked": {},
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_request_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(BadInput, match=text):
        Request(**REFUSED[text])


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [("0.5x", 0.5, True), ("1X", 1, True), ("900M", 9e8, False), ("1.2G", 1.2e9, False), ("3k", 3e3, False), ("17", 17, False), (12.5, 12.5, False), (".5x", 0.5, True)],
)  # fmt: skip
def test_a_limit_is_read(text: str | float, value: float, relative: bool):
    limit = Limit.parse(text, "--max-flops")
    assert (limit.value, limit.relative) == (value, relative)
    assert Limit.parse(limit, "") is limit


@pytest.mark.parametrize("text", ["", "x", "half", "12ms", "-3", "0", "1.5x", "0x", "nan"])
def test_what_is_no_limit_is_refused(text: str):
    with pytest.raises(BadInput, match="--max-flops"):
        Limit.parse(text, "--max-flops")


def test_a_request_tells_only_what_was_asked():
    request = Request(max_flops=Limit(0.5, True), ignore=("stem",))
    assert request.as_dict() == {
        "ignore": ("stem",), "criterion": "l2", "by": "group", "scope": "local", "max_flops": "0.5x",
    }  # fmt: skip


# --- scopes ------------------------------------------------------------------------------------


def test_local_scope_takes_the_same_share_of_each_group():
    assert gone(ask("residual_adds", ratio=0.5)) == {"stem": 8, "first": 12, "inner": 16}


def test_a_ratio_of_nothing_removes_nothing():
    assert gone(ask("residual_adds", ratio=0)) == {}


@pytest.mark.parametrize("scope", ["global", "isomorphic"])
@pytest.mark.parametrize("name", ["residual_adds", "dense_concat", "resnet18"])
def test_groups_compete_for_the_share_of_all(name: str, scope: str):
    choice = ask(name, ratio=0.4, scope=scope)
    groups = [g for g in known(name).groups if g.why_not is None]
    size = sum(g.size for g in groups)
    rounded = 0.025 * size  # a group's count is rounded by 5 % of it at most
    assert sum(gone(choice).values()) == pytest.approx(0.4 * size, abs=len(groups) + rounded)
    plain = ask(name, ratio=0.4, scope=scope, round_to=1)
    assert sum(gone(plain).values()) == pytest.approx(0.4 * size, abs=len(groups))
    assert len({gone(choice).get(g.name, 0) / g.size for g in groups}) > 1
    for g in groups:
        assert gone(choice).get(g.name, 0) <= g.size * 0.95 and gone(choice).get(g.name, 0) < g.size


@pytest.mark.parametrize(
    ("size", "ratio", "kept"),
    [(64, 0.5, 32), (64, 0.3, 48), (96, 0.1, 88), (24, 0.1, 20), (10, 0.5, 5), (64, 0.999, 1), (30, 0, 30), (72, 0.5, 36)],
)  # fmt: skip
def test_a_ratio_is_rounded_to_widths_that_kernels_like_where_they_are_near(size, ratio, kept):
    assert Near(16).kept(size, ratio) == kept


def test_rounding_to_friendly_widths_is_said_and_can_be_switched_off(monkeypatch):
    monkeypatch.setattr("surgeon.budget.request.block_of_this_cpu", lambda: 16)
    choice = ask("resnet18", ratio=0.3)
    (note,) = choice.notes
    assert gone(choice)["layer1.0.conv1"] == 16 and "for 30.0%" in note and "--round-to 1" in note
    plain = ask("resnet18", ratio=0.3, round_to=1)
    assert gone(plain)["layer1.0.conv1"] == 19 and not plain.notes
    assert not ask("resnet18", ratio=0.5).notes  # nothing had to be rounded


def test_shares_by_measured_losses_are_not_called_rounding():
    coupling = known("resnet18")
    scores = {g.name: np.arange(g.size, dtype=float) for g in coupling.groups if g.why_not is None}
    curves = {n: [(0, 0.0), (len(s), float(k))] for k, (n, s) in enumerate(scores.items())}
    choice = choose(coupling, scores, Request(ratio=0.3), curves)
    assert choice.removed and not any("rounded" in note for note in choice.notes)


def test_the_least_important_go_first():
    coupling = known("conv_chain")
    scores = {g.name: np.arange(g.size, dtype=float)[::-1] for g in coupling.groups}
    choice = choose(coupling, scores, Request(ratio=0.25))
    assert choice.removed["stem"].tolist() == [12, 13, 14, 15]


def test_a_group_is_never_emptied():
    choice = ask("conv_chain", ratio=0.999)
    assert gone(choice) == {"stem": 15, "conv": 31, "last": 23}


def test_of_two_factors_the_larger_is_cut_and_the_other_is_said():
    choice = ask("separate_qkv", ratio=0.5)
    assert "q:heads" not in choice.removed and len(choice.removed["q:head_dim"]) == 4
    why = {x.name: x.why for x in choice.left}["q:heads"]
    assert why.startswith("the other factor of a product whose factor ")
    both = ask("separate_qkv", ratio=0.5, ratio_for={"q:heads": 0.25})
    assert len(both.removed["q:heads"]) == 1 and len(both.removed["q:head_dim"]) == 4


def test_every_group_is_cut_or_said_to_be_left():
    for name in NETS:
        if name == "nothing_to_cut":
            continue
        choice = ask(name, ratio=0.5)
        for g in known(name).groups:
            assert (g.name in choice.removed) != (g.name in {x.name for x in choice.left}), g.name


# --- kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "removed"),
    [
        ((), {"embed": 16, "q:head_dim": 4, "v:head_dim": 4}),
        (("heads",), {"q:heads": 2}),
        (("head_dim",), {"q:head_dim": 4, "v:head_dim": 4}),
        (("heads", "head_dim"), {"q:heads": 2, "q:head_dim": 4, "v:head_dim": 4}),
        (("width",), {"embed": 16}),
        (("heads", "width"), {"embed": 16, "q:heads": 2}),
    ],
)
def test_only_the_kinds_that_are_named_are_cut(cut: tuple[str, ...], removed: dict[str, int]):
    choice = ask("separate_qkv", ratio=0.5, cut=cut)
    assert gone(choice) == removed
    if "width" not in cut and cut:
        why = {x.name: x.why for x in choice.left}["embed"]
        assert why == f"not among the kinds to cut (--cut {','.join(cut)})"


def test_of_two_factors_of_one_kind_one_is_cut():
    choice = ask("grouped_query", ratio=0.5, cut=("heads", "head_dim"))
    assert gone(choice) == {"q:heads": 1, "q:head_dim": 4, "v:head_dim": 4}


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_kinds_hold_for_scopes_and_limits(scope: str):
    free = {"heads", "mlp"}
    for how in ({"ratio": 0.4}, {"max_flops": Limit(0.8, True)}):
        choice = ask("scaled_class_token", cut=("heads", "mlp"), scope=scope, **how)
        assert choice.removed
        assert {known("scaled_class_token").group(n).kind for n in choice.removed} <= free


def test_a_ratio_for_a_kind_that_is_not_cut_is_refused():
    with pytest.raises(
        OutOfReach, match=r"'embed' cannot be cut: not among the kinds to cut \(--cut heads\)"
    ):
        ask("separate_qkv", ratio=0.5, cut=("heads",), ratio_for={"embed": 0.5})


def test_kinds_are_addresses():
    assert gone(ask("separate_qkv", ratio_for={"*:heads": 0.25})) == {"q:heads": 1}
    assert gone(ask("separate_qkv", ratio_for={"v:head_dim": 0.25})) == {"v:head_dim": 2}
    assert gone(ask("separate_qkv", ratio_for={"proj:width": 0.25})) == {"embed": 8}
    assert gone(ask("separate_qkv", ratio=0.5, ignore=("*:width", "k:head_dim"))) == {
        "v:head_dim": 4
    }
    with pytest.raises(BadInput, match="no layer matches 'q:head'\nhint: did you mean q:heads"):
        ask("separate_qkv", ratio_for={"q:head": 0.5})


def test_heads_are_removed_by_hand():
    choice = ask("separate_qkv", remove={"v:heads": (0, 2)})
    (name,) = choice.removed
    coupling = known("separate_qkv")
    lost = coupling.removed(coupling.group(name).atoms[choice.removed[name]])
    kept = coupling.kept(coupling.state["v.weight"][0], lost).tolist()
    assert kept == [*range(8, 16), *range(24, 32)]


WRONG_KIND = {
    "'q:heads' has channels 0 to 3, not": {"q:heads": (4,)},
    "'q:mlp' names no group\nhint: did you mean ": {"q:mlp": (0,)},
    "'q:hedas' has an unknown side ':hedas'\nhint: write layer or layer:in, or a kind: layer:heads": {"q:hedas": (0,)},
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_KIND)
def test_a_wrong_kind_is_refused(text: str):
    with pytest.raises(BadInput, match=text):
        ask("separate_qkv", remove=WRONG_KIND[text])


def test_a_group_with_a_number_is_an_address():
    with pytest.raises(BadInput, match="'qkv:head_dim#3' names no group"):
        ask("shifted_windows", remove={"qkv:head_dim#3": (0,)})
    assert gone(ask("shifted_windows", remove={"qkv:head_dim#2": (1,)})) == {"qkv:head_dim#2": 1}


# --- equal in number -----------------------------------------------------------------------------


@cache
def layers() -> Coupling:
    """Two blocks of two-headed attention and an MLP: makes that differ by nothing but their place."""
    return couple(record(Blocks().eval(), (torch.randn(2, 5, 12),)))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 5)
        one = {"qkv": (16, 48), "proj": (16, 16), "up": (16, 40), "down": (40, 16)}
        self.blocks = nn.ModuleList(
            nn.ModuleDict({k: nn.Linear(*s) for k, s in one.items()}) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for b in self.blocks:
            q, k, v = b["qkv"](x).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(2, 3)).softmax(-1) @ v
            x = x + b["proj"](y.transpose(1, 2).flatten(2))
            x = x + b["down"](b["up"](x).relu())
        return self.head(x.mean(1))


def chosen(**options) -> dict[str, int]:
    coupling = layers()
    scores = {}
    for k, g in enumerate(coupling.groups):  # the first layers matter least
        scores[g.name] = np.linspace(0.1, 2, g.size) * (1 + k) ** np.linspace(1, 0, g.size)
    return gone(choose(coupling, scores, Request(**options)))


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("how", [{"ratio": 0.4}, {"max_params": Limit(0.7, True)}], ids=str)
def test_equal_kinds_keep_equal_numbers(scope: str, how: dict):
    lost = chosen(scope=scope, equal=("heads", "mlp"), cut=("heads", "mlp"), **how)
    for layer in ("qkv:heads", "up"):
        assert len({lost.get(f"blocks.{i}.{layer}", 0) for i in range(3)}) == 1
    total = 3 * (4 + 40)
    if "ratio" in how:
        assert sum(lost.values()) == pytest.approx(0.4 * total, abs=6)


def test_without_equal_they_differ():
    lost = chosen(scope="global", cut=("mlp",), ratio=0.4)
    assert len({lost.get(f"blocks.{i}.up", 0) for i in range(3)}) > 1


def test_one_that_stays_holds_the_others_back():
    coupling = layers()
    scores = {g.name: np.arange(g.size, dtype=float) for g in coupling.groups}
    choice = choose(coupling, scores, Request(ratio=0.5, equal=("mlp",), ignore=("blocks.1.up",)))
    assert not any(n.endswith("up") for n in choice.removed)
    why = {x.name: x.why for x in choice.left}["blocks.0.up"]
    assert why == "must keep as many channels as blocks.1.up, which stays (--equal)"


def test_equal_and_another_ratio_contradict_each_other():
    with pytest.raises(
        BadInput, match=r"--equal keeps blocks.0.up and blocks.1.up equal, and --ratio-for does not"
    ):
        chosen(ratio=0.5, equal=("mlp",), ratio_for={"blocks.1.up": 0.25})


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("ratio", [0.3, 0.4, 0.6])
def test_equal_head_dim_is_one_number_for_q_and_v(ratio: float, scope: str):
    """Rotary's q loses pairs, v loses single columns: a head keeps as much of both."""
    lost = gone(ask("rotary", ratio=ratio, scope=scope, equal=("head_dim",)))
    assert lost.get("v:head_dim", 0) == 2 * lost.get("q:head_dim", 0) > 0
    fused = gone(ask("shifted_windows", ratio=ratio, scope=scope, equal=("head_dim",)))
    assert fused["qkv:head_dim"] == fused["qkv:head_dim#2"]


def test_equal_head_dim_leaves_other_sizes_apart():
    """SAGAN's q holds 4, its v as many as the stream: they were never equal."""
    assert gone(ask("stream_attention", ratio=0.5, equal=("head_dim",))) == {
        "stem": 8,
        "q:head_dim": 2,
    }


EVEN = ("enter", "enter#2", "enter#3")


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize(
    "how", [{"ratio": 0.4}, {"ratio": 0.3, "round_to": 4}, {"max_flops": Limit(0.3, True)}, {"max_params": Limit(0.4, True)}], ids=str
)  # fmt: skip
def test_runs_of_an_even_split_lose_equally_many(scope: str, how: dict):
    choice = ask("even_split", scope=scope, **how)
    lost = gone(choice)
    assert len({lost.get(n, 0) for n in EVEN}) == 1 and lost.get("enter", 0) > 0
    assert len({tuple(choice.removed[n].tolist()) for n in EVEN}) > 1  # each by its own scores
    assert any("equal in number" in n and "enter = enter#2 = enter#3" in n for n in choice.notes)
    if "round_to" in how:
        assert (12 - lost["enter"]) % 4 == 0


def test_a_tie_gives_way_to_what_is_asked():
    lost = gone(ask("even_split", ratio=0.5, ratio_for={"enter#2": 0.25}, round_to=1))
    assert [lost[n] for n in EVEN] == [6, 3, 6]
    lost = gone(ask("even_split", ratio=0.5, ignore=("enter#3",)))
    assert [lost.get(n, 0) for n in EVEN] == [6, 6, 0]
    assert gone(ask("even_split", remove={"enter": (1, 2)})) == {"enter": 2}


# --- globs -------------------------------------------------------------------------------------


def test_ratio_for_overrules_the_ratio():
    assert gone(ask("residual_adds", ratio=0.5, ratio_for={"in*": 0.25})) == {
        "stem": 8,
        "first": 12,
        "inner": 8,
    }
    assert gone(ask("residual_adds", ratio_for={"inner": 0.25})) == {"inner": 8}


def test_a_layer_that_follows_names_its_group():
    assert gone(ask("residual_adds", ratio_for={"outer": 0.5})) == {"stem": 8}


def test_ignored_layers_stay_and_are_said():
    choice = ask("residual_adds", ratio=0.5, ignore=("*er",))
    assert gone(choice) == {"first": 12}
    assert {x.name: x.why for x in choice.left}["inner"] == "ignored (*er)"


def test_a_glob_that_matches_nothing_names_the_nearest():
    for option in ({"ratio": 0.5, "ignore": ("iner",)}, {"ratio_for": {"iner": 0.5}}):
        with pytest.raises(BadInput, match="no layer matches 'iner'\nhint: did you mean inner"):
            ask("residual_adds", **option)


def test_a_glob_of_what_stays_says_why():
    with pytest.raises(OutOfReach, match="'head' cannot be cut: model output"):
        ask("residual_adds", ratio_for={"head": 0.5})


# --- by hand -----------------------------------------------------------------------------------


def test_channels_are_removed_by_the_layer_that_makes_them():
    choice = ask("residual_adds", remove={"first": (0, 3, 5)})
    assert {n: c.tolist() for n, c in choice.removed.items()} == {"first": [0, 3, 5]}


def test_channels_are_removed_by_the_layer_that_takes_them():
    coupling = known("flip")
    choice = ask("flip", remove={"conv:in": (0, 2)})
    (name,) = choice.removed
    gone = coupling.removed(coupling.group(name).atoms[choice.removed[name]])
    assert coupling.kept(coupling.state["stem.weight"][0], gone).tolist() == [*range(13), 14]


def test_a_concat_is_addressed_by_its_positions():
    choice = ask("dense_concat", remove={"last:in": (3, 16, 31)})
    assert {n: c.tolist() for n, c in choice.removed.items()} == {
        "stem": [3],
        "first": [0],
        "second": [7],
    }


def test_positions_that_go_together_are_named_together():
    assert ask("chunk_gate", remove={"conv": (3, 19)}).removed["conv"].tolist() == [3]
    with pytest.raises(OutOfReach, match=r"channels \[3\] of 'conv' cannot go by themselves"):
        ask("chunk_gate", remove={"conv": (3,)})


WRONG_ADDRESS = {
    "no layer 'frist' with channels to cut\nhint: did you mean first": {"frist": (0,)},
    "'first' has channels 0 to 23, not 24, 30\nhint": {"first": (3, 24, 30)},
    "'first' has channels 0 to 23": {"first": ()},
    "'first:out' has an unknown side ':out'\nhint: write layer or layer:in": {"first:out": (0,)},
}


@pytest.mark.parametrize("text", WRONG_ADDRESS)
def test_a_wrong_address_is_refused(text: str):
    with pytest.raises(BadInput, match=text):
        ask("residual_adds", remove=WRONG_ADDRESS[text])


def test_what_stays_cannot_be_removed_by_hand():
    with pytest.raises(OutOfReach, match="'head' cannot be cut: model output"):
        ask("residual_adds", remove={"head": (0,)})


def test_nothing_to_cut_is_said():
    with pytest.raises(OutOfReach, match=r"nothing can be cut \(conv: model output; conv:in: "):
        ask("nothing_to_cut", ratio=0.5)


# --- rounding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global"])
def test_what_is_kept_is_a_multiple(scope: str):
    choice = ask("resnet18", ratio=0.3, round_to=8, scope=scope)
    assert choice.removed
    for n, c in choice.removed.items():
        assert (known("resnet18").group(n).size - len(c)) % 8 == 0


def test_rounding_neither_skips_nor_guts_odd_widths():
    choice = ask("odd_widths", ratio=0.5, round_to=8)
    assert gone(choice) == {"stem": 4, "conv": 14}


def test_groups_narrower_than_the_step_are_cut_plainly_and_said():
    choice = ask("odd_widths", ratio=0.5, round_to=16)
    assert gone(choice) == {"stem": 6, "conv": 14}
    assert choice.notes == ("narrower than round_to, cut by the plain ratio: stem",)


def test_a_channel_of_several_filters_needs_fewer_for_a_multiple():
    """conv of group_conv: 8 channels in each of 4 groups; 2 kept are 8 filters."""
    kept = 8 - gone(ask("group_conv", ratio=0.8, round_to=8))["conv"]
    assert kept * 4 % 8 == 0 and kept == 2


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("what", ["flops", "params"])
@pytest.mark.parametrize("name", CNNS)
def test_a_limit_is_reached_within_two_percent(name: str, what: str, scope: str):
    choice = ask(name, scope=scope, **{f"max_{what}": Limit(0.5, True)})
    share = getattr(total(name, choice), what) / getattr(whole(name), what)
    assert 0.49 <= share <= 0.5


def test_an_absolute_limit_and_two_at_once():
    before = whole("resnet18")
    choice = ask(
        "resnet18", max_flops=Limit(0.6 * before.flops, False), max_params=Limit(0.4, True)
    )
    after = total("resnet18", choice)
    assert (
        after.flops <= 0.6 * before.flops
        and 0.39 * before.params <= after.params <= 0.4 * before.params
    )


def test_a_limit_that_is_met_already_removes_nothing():
    with pytest.raises(OutOfReach, match="nothing is removed: the limits are met already"):
        ask("resnet18", max_params=Limit(1, True))
    with pytest.raises(OutOfReach, match="nothing is removed: that is no channel of any group"):
        ask("resnet18", ratio=0.0001)
    assert ask("resnet18", max_flops=Limit(0.999, True)).removed


def test_a_limit_out_of_reach_says_the_least():
    with pytest.raises(OutOfReach) as caught:
        ask("resnet18", max_params=Limit(0.0001, True))
    assert "--max-params 0.0001x cannot be reached: the least is " in caught.value.message
    assert caught.value.message.endswith("x) params")
    assert caught.value.exit_code == 3


def test_a_limit_keeps_what_is_removed_by_hand_and_what_is_ignored():
    choice = ask(
        "resnet18",
        max_flops=Limit(0.7, True),
        remove={"layer1.0.conv1": (0, 1)},
        ignore=("layer4.*",),
    )
    assert choice.removed["layer1.0.conv1"].tolist() == [0, 1]
    assert not any(n.startswith("layer4") for n in choice.removed)
    assert total("resnet18", choice).flops <= 0.7 * whole("resnet18").flops


# --- what it costs -----------------------------------------------------------------------------


def inputs_of(name: str) -> tuple[torch.Tensor, ...]:
    return NETS[name].inputs() if name in NETS else IMAGE


def same_for_all_data(name: str) -> None:
    """A count is of one example, a plan's cost of the traced batch: they differ where the data decides what runs."""
    if not known(name).graph.on_meta:
        pytest.skip("what this net runs depends on the data")


@pytest.mark.parametrize("name", [*NETS, *ZOO])
def test_the_cost_is_what_is_counted(name: str):
    same_for_all_data(name)
    counted = flops(built(name), inputs_of(name))
    assert whole(name) == Total(counted.total, counted.macs, parameters(built(name)))


UNCUT = {"nothing_to_cut"}
ZOO_RATIO = 0.4


@pytest.mark.parametrize("name", [n for n in (*NETS, *ZOO) if n not in UNCUT])
def test_the_cost_of_a_cut_is_what_is_counted_after_it(name: str):
    same_for_all_data(name)
    choice = ask(name, ratio=ZOO_RATIO)
    plan = make_plan(known(name), choice, {}, {})
    slim = cut(built(name), inputs_of(name), known(name), plan).model
    counted = flops(slim, inputs_of(name))
    assert total(name, choice) == Total(counted.total, counted.macs, parameters(slim))
