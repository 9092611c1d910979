"""Groups by name: how many channels, exact or not, who is in them, and why some stay."""

import re

import numpy as np
import pytest
import torch
from nets import NETS
from test_couple import coupled
from torch import nn

from surgeon.couple import couple
from surgeon.grouping import Group
from surgeon.trace.record import record

torch.set_num_threads(1)

INPUT = "meets the model's input, which stays"
PATCHES = "meets batch, space or positions of aten.convolution.default, which stay"
SORTED = "meets batch, space or positions of aten.sort.default, which stay"

# name: (channels, '' exact | '!' inexact | why not), without where it is
GROUPS: dict[str, dict[str, tuple[int, str]]] = {
    "conv_chain": {
        "stem": (16, ""), "stem:in": (3, INPUT), "conv": (32, ""), "last": (24, ""), "head": (5, "model output"),
    },
    "group_conv": {
        "stem:in": (3, INPUT), "stem": (4, ""), "stem#2": (4, ""), "conv": (8, ""), "last": (24, ""), "head": (5, "model output"),
    },
    "residual_adds": {
        "stem": (16, ""), "stem:in": (3, INPUT), "first": (24, ""), "inner": (32, ""), "head": (5, "model output"),
    },
    "dense_concat": {
        "stem": (16, ""), "stem:in": (3, INPUT), "first": (8, ""), "second": (8, ""), "last": (24, ""), "head": (5, "model output"),
    },
    "chunk_gate": {
        "stem": (16, ""), "stem:in": (3, INPUT), "conv": (16, ""), "last": (24, ""), "head": (5, "model output"),
    },
    "literal_split": {
        "stem": (16, ""), "stem:in": (3, INPUT), "conv": (16, ""), "conv#2": (16, ""), "left": (24, ""), "head": (5, "model output"),
    },
    "flip_add": {"stem": (8, ""), "stem:in": (3, INPUT), "conv": (24, ""), "head": (5, "model output")},
    "read_one_channel": {
        "stem": (15, ""), "stem#2": (1, "position 3 is read by itself"), "stem:in": (3, INPUT), "conv": (24, ""), "head": (5, "model output"),
    },
    "spatial_attention": {"stem": (16, "!"), "stem:in": (3, INPUT), "head": (5, "model output")},
    "channel_softmax": {"stem": (16, "!"), "stem:in": (3, INPUT), "conv": (24, ""), "head": (5, "model output")},
    "group_norm": {
        "stem": (16, ""), "stem:in": (3, INPUT), "conv": (4, ""), "conv#2": (8, "!"), "head": (5, "model output"),
    },
    "instance_norm": {"stem": (16, ""), "stem:in": (3, INPUT), "conv": (32, ""), "head": (5, "model output")},
    "norm_mlp_residual": {
        "embed": (32, "!"), "embed:in": (12, INPUT), "first": (64, ""), "head": (5, "model output"),
    },
    "class_token": {
        "patch": (32, ""), "patch:in": (3, INPUT), "position": (17, PATCHES), "first": (48, ""),
        "mix": (1, "position 0 is read by itself"), "mix#2": (16, ""), "mix:in": (17, PATCHES), "head": (5, "model output"),
    },
    "separate_qkv": {
        "embed": (32, ""), "embed:in": (12, INPUT), "q:heads": (4, ""), "q:head_dim": (8, ""), "v:head_dim": (8, ""), "head": (5, "model output"),
    },
    "tied_embedding": {
        "embed": (50, "aten.embedding.default reads it as position, batch or space"), "embed#2": (16, ""), "first": (32, ""),
    },
    "two_in_two_out": {
        "stem": (16, ""), "stem:in": (3, INPUT), "side": (16, ""), "side:in": (6, INPUT), "trunk": (24, ""),
        "first": (10, "model output 0"), "second": (8, "model output 1"),
    },
    "sort_channels": {
        "stem": (16, ""), "stem:in": (3, INPUT), "conv": (24, "aten.sort.default reads it as position, batch or space"),
        "head": (5, "model output"), "head:in": (24, SORTED),
    },
}  # fmt: skip

GROUPS["registered"] = {
    "embed": (32, ""), "embed:in": (12, INPUT), "q:head_dim": (24, ""), "v:head_dim": (24, ""), "head": (5, "model output"),
    "registers": (4, "tokens or positions: no weight makes or takes them as channels"),
}  # fmt: skip


def said(group: Group) -> tuple[int, str]:
    mark = "!" if group.inexact else ""
    return group.size, re.sub(r", at .*$", "", group.why_not) if group.why_not else mark


@pytest.mark.parametrize("name", GROUPS)
def test_groups_by_name_size_and_reason(name: str):
    assert {g.name: said(g) for g in coupled(name).groups} == GROUPS[name]


class Constant(nn.Module):
    """A picture that is learned, as StyleGAN's: weights take its channels, though no input brings any."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.randn(1, 6, 4, 4))
        self.conv, self.mean = nn.Conv2d(6, 8, 3), nn.Parameter(torch.randn(8, 1, 1))
        self.style, self.last = nn.Linear(5, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((self.conv(self.picture) - self.mean) * self.style(x)[:, :, None, None])


def test_channels_that_no_input_brings_are_channels():
    groups = {g.name: g for g in couple(record(Constant().eval(), (torch.randn(2, 5),))).groups}
    assert groups["picture"].why_not is None and groups["conv"].why_not is None


class Looked(nn.Module):
    """Queries and keys of a convolution without a bias: no weight takes them, but one makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v = nn.Conv1d(5, 8, 1, bias=False), nn.Conv1d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = self.qk(x).chunk(2, 1)
        return self.v(x) @ (q.mT @ k).softmax(1)


def test_what_a_weight_makes_and_none_takes_is_a_channel():
    groups = couple(record(Looked().eval(), (torch.randn(2, 5, 6),))).groups
    assert {g.name: g.why_not for g in groups if g.name == "qk:head_dim"} == {"qk:head_dim": None}


def test_reasons_say_where():
    groups = {g.name: g for g in coupled("norm_mlp_residual").groups}
    why = groups["embed"].inexact
    assert why is not None
    assert re.fullmatch(
        r"aten.native_layer_norm.default mixes over it, at norm \(mixing.py:\d+\)", why
    )
    why = groups["embed:in"].why_not
    assert why is not None and re.fullmatch(rf"{INPUT}, at embed \(case.py:\d+\)", why)


def roles(group: Group) -> dict[tuple[str, int], str]:
    return {(m.state, m.dim): m.role for m in group.members}


def test_who_makes_takes_and_goes_along():
    assert roles(coupled("conv_chain").group("conv")) == {
        ("conv.weight", 0): "makes",
        ("norm.weight", 0): "along",
        ("norm.bias", 0): "along",
        ("norm.running_mean", 0): "along",
        ("norm.running_var", 0): "along",
        ("last.weight", 1): "takes",
    }


def test_a_linear_makes_rows_and_takes_columns():
    assert roles(coupled("norm_mlp_residual").group("first")) == {
        ("first.weight", 0): "makes",
        ("first.bias", 0): "along",
        ("second.weight", 1): "takes",
    }


def test_a_depthwise_conv_has_filters_of_its_own():
    found = roles(coupled("depthwise_separable").group("stem"))
    assert found["stem.weight", 0] == found["depth.weight", 0] == "makes"
    assert found["point.weight", 1] == "takes"


def test_a_residual_group_has_every_maker():
    found = roles(coupled("residual_adds").group("stem"))
    assert {s for (s, _), r in found.items() if r == "makes"} == {
        "stem.weight",
        "second.weight",
        "outer.weight",
    }
    assert {s for (s, _), r in found.items() if r == "takes"} == {
        "first.weight",
        "inner.weight",
        "head.weight",
    }


def test_an_embedding_makes_its_columns():
    found = roles(coupled("embedding_linear").group("embed"))
    assert found == {("embed.weight", 1): "makes", ("first.weight", 1): "takes"}


def test_positions_belong_to_channels():
    member = next(m for m in coupled("flip").group("stem").members if m.state == "conv.weight")
    assert np.array_equal(member.at[np.argsort(member.channel)], np.arange(16)[::-1])


def test_a_channel_may_own_several_positions():
    member = next(
        m for m in coupled("chunk_gate").group("conv").members if m.state == "conv.weight"
    )
    assert sorted(zip(member.channel.tolist(), member.at.tolist(), strict=True))[:4] == [(0, 0), (0, 16), (1, 1), (1, 17)]  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_names_are_unique_and_groups_are_apart(name: str):
    coupling = coupled(name)
    names = [g.name for g in coupling.groups]
    assert len(set(names)) == len(names)
    atoms = np.concatenate([g.atoms for g in coupling.groups])
    assert len(np.unique(atoms)) == len(atoms)
    assert all(coupling.group(g.name) is g for g in coupling.groups)


@pytest.mark.parametrize("name", NETS)
def test_every_channel_of_a_group_is_in_every_member(name: str):
    for group in coupled(name).groups:
        for member in group.members:
            assert set(member.channel.tolist()) == set(range(group.size))


@pytest.mark.parametrize("name", NETS)
def test_partners_know_each_other(name: str):
    groups = {g.name: g for g in coupled(name).groups}
    for group in groups.values():
        assert all(group.name in groups[p].partners for p in group.partners)


def test_kernel_extents_are_in_no_group():
    for group in coupled("conv_chain").groups:
        assert all(m.dim < 2 for m in group.members)


class Blocks(torch.nn.Module):
    """Two blocks of the same make, and one that is not."""

    def __init__(self):
        super().__init__()
        convs = [torch.nn.Conv2d(a, b, 3) for a, b in ((3, 8), (8, 12), (12, 16))]
        self.first, self.second, self.third = convs
        self.norm, self.head = torch.nn.BatchNorm2d(16), torch.nn.Linear(16, 5)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.head(self.norm(self.third(x)).mean((2, 3)))


def test_groups_of_the_same_make_have_the_same_key():
    groups = couple(record(Blocks().eval(), (torch.randn(2, 3, 9, 9),)))
    keys = {n: groups.group(n).key for n in ("first", "second", "third")}
    assert keys["first"] == keys["second"] != keys["third"]


def test_a_single_channel_stays():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 1, 1), torch.nn.Conv2d(1, 4, 1)
    )
    groups = couple(record(model.eval(), (torch.randn(2, 3, 4, 4),))).groups
    assert all(g.why_not for g in groups if g.size == 1)
