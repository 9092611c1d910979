"""Rules + graph -> what goes with what, on the nets; and the words where something may not go."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from nets import NETS, Case, tensors
from torch import nn

from surgeon.couple import Coupling, couple
from surgeon.cut.sizes import Sizes
from surgeon.trace.record import record

torch.set_num_threads(1)


@cache
def coupled(name: str) -> Coupling:
    case = NETS[name]
    return couple(record(case.build(), case.inputs()))


def removed(coupling: Coupling, name: str, *channels: int) -> dict[str, dict[int, list[int]]]:
    """Positions of every state dimension that go with these channels of a group."""
    gone = Sizes(coupling, coupling.removed(coupling.group(name).atoms[list(channels)]))
    out: dict[str, dict[int, list[int]]] = {}
    for state, value in coupling.graph.state.items():
        for d, n in enumerate(value.shape):
            kept = gone.kept(value, d)
            if len(kept) < n:
                out.setdefault(state, {})[d] = sorted(set(range(n)) - set(kept.tolist()))
    return out


@pytest.mark.parametrize("name", NETS)
def test_what_a_correct_tool_can_cut_is_in_a_group_that_may_be_cut(name: str):
    free = [g for g in coupled(name).groups if g.why_not is None]
    reached = {m.state for g in free for m in g.members if m.role in ("makes", "along")}
    lost = [m for m in NETS[name].cuts if not any(s.startswith(f"{m}.") for s in reached)]
    assert not lost


def test_a_network_that_is_its_output_has_nothing_to_cut():
    groups = coupled("nothing_to_cut").groups
    assert [(g.name, g.why_not is not None) for g in groups] == [("conv", True), ("conv:in", True)]


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_inputs_are_never_narrowed(name: str):
    coupling = coupled(name)
    everything = [g.atoms for g in coupling.groups if g.why_not is None]
    if not everything:
        return
    gone = Sizes(coupling, coupling.removed(np.concatenate(everything)))
    for value in (*coupling.graph.inputs, *coupling.graph.outputs):
        assert gone.shape(value) == value.shape


@pytest.mark.parametrize("name", NETS)
def test_every_value_has_its_dimensions(name: str):
    coupling = coupled(name)
    whole = Sizes(coupling, np.zeros(coupling.classes.count, bool))
    for node in coupling.graph.nodes:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value in coupling.dims:
                assert whole.shape(value) == value.shape


@pytest.mark.parametrize("case", NETS.values(), ids=NETS)
def test_coupling_twice_gives_the_same(case: Case):
    graph = record(case.build(), case.inputs())
    first, second = couple(graph), couple(graph)
    assert [(g.name, g.size, g.why_not, g.inexact, g.key) for g in first.groups] == [
        (g.name, g.size, g.why_not, g.inexact, g.key) for g in second.groups
    ]
    for a, b in zip(first.groups, second.groups, strict=True):
        assert np.array_equal(a.atoms, b.atoms)


# --- what goes with what -----------------------------------------------------------------------

GOES: dict[tuple[str, str, tuple[int, ...]], dict[str, dict[int, list[int]]]] = {
    ("conv_chain", "conv", (3,)): {
        "conv.weight": {0: [3]},
        "norm.weight": {0: [3]},
        "norm.bias": {0: [3]},
        "norm.running_mean": {0: [3]},
        "norm.running_var": {0: [3]},
        "last.weight": {1: [3]},
    },
    ("depthwise_multiplier", "stem", (5,)): {
        "stem.weight": {0: [5]},
        "stem.bias": {0: [5]},
        "depth.weight": {0: [10, 11]},
        "depth.bias": {0: [10, 11]},
        "head.weight": {1: [10, 11]},
    },
    ("transposed_conv", "up", (2,)): {
        "up.weight": {1: [2]},
        "up.bias": {0: [2]},
        "norm.weight": {0: [2]},
        "norm.bias": {0: [2]},
        "norm.running_mean": {0: [2]},
        "norm.running_var": {0: [2]},
        "last.weight": {1: [2]},
    },
    ("concat_with_self", "stem", (1,)): {
        "stem.weight": {0: [1]},
        "stem.bias": {0: [1]},
        "conv.weight": {1: [1, 17]},
    },
    ("chunk_gate", "conv", (0, 15)): {
        "conv.weight": {0: [0, 15, 16, 31]},
        "conv.bias": {0: [0, 15, 16, 31]},
        "last.weight": {1: [0, 15]},
    },
    ("flip", "stem", (0,)): {
        "stem.weight": {0: [0]},
        "stem.bias": {0: [0]},
        "conv.weight": {1: [15]},
    },
    ("flip_add", "stem", (0,)): {
        "stem.weight": {0: [0, 15]},
        "stem.bias": {0: [0, 15]},
        "conv.weight": {1: [0, 15]},
    },
    ("roll", "stem", (0,)): {
        "stem.weight": {0: [0]},
        "stem.bias": {0: [0]},
        "conv.weight": {1: [5]},
    },
    ("pixel_shuffle", "conv", (1,)): {
        "conv.weight": {0: [4, 5, 6, 7]},
        "conv.bias": {0: [4, 5, 6, 7]},
        "last.weight": {1: [1]},
    },
    ("zero_padded_shortcut", "stem", (0,)): {
        "stem.weight": {0: [0]},
        "stem.bias": {0: [0]},
        "conv1.weight": {1: [0]},
        "conv2.weight": {0: [8]},
        "conv2.bias": {0: [8]},
        "head.weight": {1: [8]},
    },
    ("flatten_linear", "conv", (1,)): {
        "conv.weight": {0: [1]},
        "conv.bias": {0: [1]},
        "first.weight": {1: list(range(16, 32))},
    },
    ("nhwc_flatten", "conv", (1,)): {
        "conv.weight": {0: [1]},
        "conv.bias": {0: [1]},
        "first.weight": {1: list(range(1, 256, 16))},
    },
    ("unfold", "stem", (1,)): {
        "stem.weight": {0: [1]},
        "stem.bias": {0: [1]},
        "mix.weight": {1: list(range(9, 18))},
    },
    ("outer_product", "side", (0,)): {
        "side.weight": {0: [0]},
        "side.bias": {0: [0]},
        "head.weight": {1: list(range(0, 96, 12))},
    },
    ("squeeze_excite", "conv", (4,)): {
        "conv.weight": {0: [4]},
        "conv.bias": {0: [4]},
        "squeeze.weight": {1: [4]},
        "excite.weight": {0: [4]},
        "excite.bias": {0: [4]},
        "head.weight": {1: [4]},
    },
    ("tied_embedding", "embed#2", (7,)): {
        "embed.weight": {1: [7]},
        "head.weight": {1: [7]},
        "first.weight": {1: [7]},
        "second.weight": {0: [7]},
        "second.bias": {0: [7]},
    },
    ("shared_weight", "stem", (2,)): {
        "stem.weight": {0: [2]},
        "stem.bias": {0: [2]},
        "first.weight": {0: [2], 1: [2]},
        "second.weight": {0: [2], 1: [2]},
        "first.bias": {0: [2]},
        "second.bias": {0: [2]},
        "head.weight": {1: [2]},
    },
    ("layer_scale", "stem", (9,)): {
        "stem.weight": {0: [9]},
        "stem.bias": {0: [9]},
        "conv.weight": {0: [9], 1: [9]},
        "conv.bias": {0: [9]},
        "gamma": {0: [9]},
        "head.weight": {1: [9]},
    },
}


@pytest.mark.parametrize(("name", "group", "channels"), GOES, ids=lambda x: str(x))
def test_what_goes_with_a_channel(name: str, group: str, channels: tuple[int, ...]):
    assert removed(coupled(name), group, *channels) == GOES[name, group, channels]


def test_heads_and_head_dim_are_two_groups_of_one_product():
    coupling = coupled("fused_qkv")
    head, dim = coupling.group("qkv:heads"), coupling.group("qkv:head_dim")
    assert (head.size, dim.size) == (4, 8)
    assert dim.name in head.partners and head.name in dim.partners
    one_head = removed(coupling, "qkv:heads", 1)
    assert one_head["qkv.weight"][0] == [*range(8, 16), *range(40, 48), *range(72, 80)]
    assert one_head["proj.weight"][1] == list(range(8, 16))
    one_dim = removed(coupling, "qkv:head_dim", 1)
    assert one_dim["qkv.weight"][0] == list(range(1, 96, 8))


def test_an_lstm_cuts_its_hidden_size_in_every_gate():
    gone = removed(coupled("lstm"), "lstm.weight_hh_l0", 3)
    four = [3, 19, 35, 51]
    assert gone["lstm.weight_ih_l0"] == {0: four} and gone["lstm.bias_hh_l0"] == {0: four}
    assert gone["lstm.weight_hh_l0"] == {0: four, 1: [3]}
    assert gone["head.weight"] == {1: [3]}


def test_grouped_query_attention_cuts_a_shared_head_with_its_queries():
    coupling = coupled("grouped_query")
    shared = next(
        g.name
        for g in coupling.groups
        if g.size == 2 and "k.weight" in {m.state for m in g.members}
    )
    gone = removed(coupling, shared, 1)
    assert gone["k.weight"] == {0: list(range(8, 16))}
    assert gone["q.weight"] == {0: list(range(16, 32))}


TIES = {
    "even_split": {frozenset({"enter", "enter#2", "enter#3"})},
    "split_and_concat": {frozenset({"enter", "enter#2"})},
    "shifted_windows": {frozenset({"qkv:head_dim", "qkv:head_dim#2"})},  # the heads are shared
    "chunk_gate": set(),  # one group: channel i goes with channel i + 16
    "rotary": set(),
    "lstm": set(),
    "conv_chain": set(),
}


@pytest.mark.parametrize("name", TIES)
def test_runs_of_an_even_split_are_tied(name: str):
    assert set(coupled(name).ties) == TIES[name]


class Halves(nn.Module):
    """An even split whose halves are used together, or by a reader that sees the middle by itself."""

    def __init__(self, middle: bool):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.inner = nn.Linear(4, 5) if middle else None

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        a, b = x.chunk(2, 1)
        out = self.head(torch.cat([a, b.relu()], 1))
        return out + self.inner(x[:, 2:6]) if self.inner else out


@pytest.mark.parametrize(("middle", "sizes"), [(False, [8]), (True, [4, 4])])
def test_runs_that_are_not_one_whole_group_each_are_not_tied(middle: bool, sizes: list[int]):
    coupling = couple(record(Halves(middle).eval(), (torch.randn(2, 3, 6, 6),)))
    assert [g.size for g in coupling.groups if g.why_not is None] == sizes
    assert len(coupling.algebra.ties) == 1 and coupling.ties == ()


# --- what no rule can carry --------------------------------------------------------------------


def test_what_is_sorted_stays():
    coupling = coupled("sort_channels")
    assert not coupling.unknown
    why = coupling.group("conv").why_not
    assert why is not None
    assert why.startswith("aten.sort.default reads it as position")
    assert coupling.group("stem").why_not is None


def test_a_transform_over_channels_needs_them_all():
    why = coupled("fourier_channels").group("conv").why_not
    assert why is not None
    assert why.startswith("aten._fft_r2c.default reads it as position")


def test_what_meets_the_result_of_an_unknown_op_names_it():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.square, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 5)

        def forward(self, x):
            return self.head(x @ torch.matrix_exp(self.square.weight))

    coupling = couple(record(Turned(), torch.zeros(2, 6)))
    assert [n.op for n in coupling.unknown] == ["aten.linalg_matrix_exp.default"]
    whys = [g.why_not or "" for g in coupling.groups if g.name.startswith("head:in")]
    assert [w.split(", at")[0] for w in whys] == [
        "meets a result of aten.linalg_matrix_exp.default, which has no channel rule"
    ]


def test_an_unknown_op_is_named_with_its_place():
    coupling = coupled("exponential_of_channels")
    assert [n.op for n in coupling.unknown] == ["aten.linalg_matrix_exp.default"]
    why = coupling.group("conv:head_dim").why_not
    assert why is not None
    assert why.startswith(
        "no channel rule for aten.linalg_matrix_exp.default, at the model itself (refused.py:"
    )


class Net(nn.Module):
    """A conv, what a function makes of it, a linear on the pooled result."""

    def __init__(self, function, width: int = 8):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(width, 5)
        self.function = function

    def forward(self, x):
        return self.head(self.function(self.conv(x)).mean((2, 3)))


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def why_not(function, width: int = 8) -> str | None:
    model = Net(function, width).eval()
    coupling = couple(record(model, (torch.randn(2, 3, 6, 6),)))
    return next(g.why_not for g in coupling.groups if g.name in ("conv", "conv:head_dim"))


REASONS = {
    "unbound: every position is read by itself": lambda x: torch.stack(x.unbind(1), 1),
    "masked by position": lambda x: x.transpose(1, 3).tril().transpose(1, 3),
    "indexed by position": lambda x: x[:, torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]])].flatten(1, 2),
    "aten.unfold.default reads it by position": lambda x: x.unfold(1, 3, 5)[..., 0].repeat(1, 4, 1, 1),
    "aten.avg_pool3d.default reads it as position, batch or space": (
        lambda x: nn.functional.avg_pool3d(x[:, None], (3, 1, 1), 1, (1, 0, 0))[:, 0]
    ),
    "meets positions that aten.triu_indices.default makes, which stay": (
        lambda x: x + torch.triu_indices(4, 4)[0, :8].view(8, 1, 1)
    ),
}  # fmt: skip


MADE = {
    "softmax": lambda x: x + torch.zeros(8).softmax(0).view(8, 1, 1),
    "sum": lambda x: (lambda ones: x * ones / ones.sum())(torch.ones(8, 1, 1)),
    "mean": lambda x: x * torch.full((8, 1, 1), 2.0) / torch.eye(8).mean(0).view(8, 1, 1),
}


@pytest.mark.parametrize("how", MADE)
def test_what_the_code_makes_of_nothing_is_not_counted(how: str):
    """A mean of zeros, the sum of ones: no mask says that some of them are gone."""
    why = why_not(MADE[how])
    assert why is not None
    assert re.search(
        r"constants or copies that the code makes, where aten\._?\w+\.\w+ (mixes|sums) over it", why
    )


def test_a_place_among_eigenvalues_is_read_by_itself():
    def largest(x: torch.Tensor) -> torch.Tensor:
        flat = x.transpose(0, 1).flatten(1)
        _, vectors = torch.linalg.eigh(flat @ flat.T)
        return (vectors[:, -4:].T @ flat).view(4, 2, 4, 4).transpose(0, 1)

    why = why_not(largest, 4)
    assert why is not None
    assert why.startswith("aten._linalg_eigh.default puts them in order")


def test_two_ops_that_see_other_products_are_both_named():
    layers = nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.GroupNorm(3, 12), nn.Conv2d(12, 4, 1)
    coupling = couple(record(nn.Sequential(*layers).eval(), (torch.randn(2, 3, 6, 6),)))
    why = coupling.group("0").why_not
    assert why is not None
    at = r"aten\.native_group_norm\.default in {} \(test_couple\.py:\d+\)"
    assert re.fullmatch(
        r"one op takes the channels as 4\*3 and another as 3\*4: no cut keeps both whole, at "
        + f"{at.format(2)} and {at.format(1)}",
        why,
    )


@pytest.mark.parametrize("text", REASONS)
def test_the_reason_names_what_happened(text: str):
    why = why_not(REASONS[text])
    assert why is not None
    assert re.match(rf"{re.escape(text)}, at (\S+ in )?the model itself \(test_couple.py:", why)


def test_a_reshape_across_channels_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Unflatten(2, (2, 2)), nn.Flatten(1, 3)).eval()
    coupling = couple(record(model, (torch.randn(2, 3, 6, 6),)))
    assert coupling.group("0").why_not == "model output"


def test_a_state_tensor_that_is_not_read_has_no_dims():
    class Idle(Net):
        def __init__(self):
            super().__init__(torch.relu)
            self.idle = nn.Linear(4, 4)

    coupling = couple(record(Idle().eval(), (torch.randn(2, 3, 6, 6),)))
    assert "idle.weight" not in coupling.state
    assert not any("idle" in m.state for g in coupling.groups for m in g.members)


def test_outputs_in_dicts_and_dataclasses_are_outputs():
    for name in ("dict_output", "dataclass_output"):
        case, coupling = NETS[name], coupled(name)
        assert len(coupling.graph.outputs) == len(tensors(case.build()(*case.inputs())))
        reasons = {g.why_not for g in coupling.groups}
        assert any(why and why.startswith("model output ") for why in reasons)
