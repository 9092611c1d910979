"""The plan: JSON there and back, read by scripts, edited by hand, refused where it does not fit."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import NETS
from test_budget import ask, built, inputs_of, known
from torch import nn

from surgeon.check import check
from surgeon.couple import couple
from surgeon.cut import cut
from surgeon.errors import BadInput
from surgeon.plan import Cuts, Left, Plan, dumps, fingerprint
from surgeon.planning import keep_of, make_plan, model_facts, removed_by
from surgeon.trace.record import record

torch.set_num_threads(1)

UNCUT = {"nothing_to_cut"}
INPUTS = [{"shape": [2, 3, 8, 8], "dtype": "float32"}]


def planned(name: str, ratio: float = 0.5, **options) -> Plan:
    coupling = known(name)
    choice = ask(name, ratio=ratio, **options)
    return make_plan(coupling, choice, model_facts(coupling.graph, name, INPUTS), {"ratio": ratio})


def edited(plan: Plan, change) -> Plan:
    """The plan whose JSON was changed by hand."""
    data = copy.deepcopy(plan.to_json())
    change(data)
    return Plan.from_json(json.loads(json.dumps(data)))


# --- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in NETS if n not in UNCUT])
def test_a_plan_survives_its_file(name: str, tmp_path: Path):
    plan = planned(name)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_the_file_is_the_format_that_scripts_read():
    data = json.loads(dumps(planned("conv_chain").to_json()))
    assert list(data) == ["format", "version", "model", "request", "keep", "groups", "left"]
    assert (data["format"], data["version"]) == ("surgeon-plan", 1)
    assert data["model"]["inputs"] == INPUTS
    assert data["model"]["source"] == "conv_chain"
    assert data["model"]["fingerprint"].startswith("sha256:")
    assert data["groups"][0] == {
        "name": "stem", "size": 16, "kept": 8, "exact": True, "kind": "mlp",
    }  # fmt: skip
    assert data["left"][-1] == {
        "name": "head", "size": 5, "why": "model output", "kind": "mlp",
    }  # fmt: skip
    kept = data["keep"]["stem.weight"]["0"]
    assert (
        list(data["keep"]["stem.weight"]) == ["0"] and len(kept) == 8 and kept == sorted(set(kept))
    )
    assert data["keep"]["conv.weight"]["1"] == kept
    assert "head.bias" not in data["keep"]


def test_a_plan_without_kinds_still_loads():
    data = planned("conv_chain").to_json()
    data["groups"] = [{k: v for k, v in g.items() if k != "kind"} for g in data["groups"]]
    data["left"] = [{k: v for k, v in x.items() if k != "kind"} for x in data["left"]]
    plan = Plan.from_json(json.loads(dumps(data)))
    assert plan.keep == planned("conv_chain").keep
    assert {g.kind for g in plan.groups} == {x.kind for x in plan.left} == {""}


def test_names_are_those_of_the_state_dict():
    for name in ("tied_embedding", "lstm", "frozen_batch_norm", "class_token"):
        plan, state = planned(name), built(name).state_dict()
        for tensor, dims in plan.keep.items():
            for d, kept in dims.items():
                assert kept[-1] < state[tensor].shape[d]


def test_a_tied_tensor_is_listed_under_both_names():
    keep = planned("tied_embedding").keep
    assert keep["embed.weight"] == keep["head.weight"]


def test_the_file_has_a_line_an_entry():
    lines = dumps(planned("conv_chain").to_json()).splitlines()
    assert sum(line.startswith('  "stem.weight": {"0": [') for line in lines) == 1
    assert sum(line.startswith('  {"name": ') for line in lines) == 5


def test_empty_tables_are_written():
    assert Plan.from_json(json.loads(dumps(Plan({}).to_json()))) == Plan({})


def test_a_plan_is_frozen_and_counts_what_goes():
    plan = planned("conv_chain")
    assert plan.removed == 8 + 16 + 12
    with pytest.raises(AttributeError):
        plan.keep = {}


def test_a_fingerprint_is_of_shapes_not_of_weights():
    shapes: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (4,)}
    assert fingerprint(shapes) == fingerprint(dict(reversed(shapes.items())))
    assert fingerprint(shapes) != fingerprint({**shapes, "b": (5,)})


def damage(path: str, value: Any):
    def change(data: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for key in way:
            data = data[key]
        data[last] = value

    return change


DAMAGED = {
    "not a surgeon plan\nhint: the file needs": damage("format", "other"),
    "plan version 2; this surgeon reads 1": damage("version", 2),
    "the plan has no 'keep' table": damage("keep", [1]),
    r"keep\['stem.weight'\] must map dims to lists of indices": damage("keep/stem.weight", [0, 1]),
    r"keep\['stem.weight'\] has a dim 'out' that is not a number": damage("keep/stem.weight/out", [0]),
    r"keep\['stem.weight'\]\['0'\] must be a non-empty list of increasing indices\nhint: remove an index": damage("keep/stem.weight/0", []),
    r"keep\['stem.bias'\]\['0'\] must be": damage("keep/stem.bias/0", [3, 1]),
    r"keep\['conv.bias'\]\['0'\] must be": damage("keep/conv.bias", {"0": [0, 0]}),
    r"keep\['conv.weight'\]\['0'\] must be": damage("keep/conv.weight/0", [-1, 2]),
    r"keep\['conv.weight'\]\['1'\] must be": damage("keep/conv.weight/1", ["0", "1"]),
    r"keep\['last.weight'\]\['0'\] must be": damage("keep/last.weight/0", [0.5]),
    "the plan's groups or left list is damaged": damage("groups", [{"nom": "stem"}]),
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_plan_says_what_is_wrong(text: str):
    with pytest.raises(BadInput, match=text):
        edited(planned("conv_chain"), DAMAGED[text])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"format": 3}'])
def test_a_file_that_is_no_plan_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        Plan.load(path)


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path):
    with pytest.raises(BadInput, match="no such file"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot be read as a plan"):
        Plan.load(tmp_path)


# --- against a model ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in NETS if n not in UNCUT])
def test_what_a_plan_removes_is_what_was_chosen(name: str):
    coupling, choice = known(name), ask(name, ratio=0.5)
    plan = make_plan(coupling, choice, {}, {})
    atoms = np.concatenate([coupling.group(n).atoms[c] for n, c in choice.removed.items()])
    again = removed_by(coupling, plan)
    assert keep_of(coupling, again) == plan.keep == keep_of(coupling, coupling.removed(atoms))
    for value in coupling.dims:
        for dim in coupling.dims[value]:
            assert coupling.kept_size(dim, again) == coupling.kept_size(
                dim, coupling.removed(atoms)
            )


@pytest.mark.parametrize("name", [n for n in NETS if n not in UNCUT])
def test_any_choice_can_be_read_back(name: str):
    """Also of both factors of a product, and of all but one channel."""
    coupling, rng = known(name), np.random.default_rng(0)
    free = [g for g in coupling.groups if g.why_not is None]
    for share in (0.2, 0.6, 1.0):
        picked = [g.atoms[rng.permutation(g.size)[: int(share * (g.size - 1))]] for g in free]
        removed = coupling.removed(np.concatenate(picked))
        keep = keep_of(coupling, removed)
        if not all(kept for dims in keep.values() for kept in dims.values()):
            with pytest.raises(BadInput, match="keeps nothing of"):  # two groups share a dim
                removed_by(coupling, Plan(keep))
            continue
        again = removed_by(coupling, Plan(keep))
        assert keep_of(coupling, again) == keep
        for dims in coupling.dims.values():
            for dim in dims:
                assert coupling.kept_size(dim, again) == coupling.kept_size(dim, removed)


def test_groups_and_left_are_all_groups():
    plan, coupling = planned("separate_qkv"), known("separate_qkv")
    assert {g.name for g in plan.groups} | {x.name for x in plan.left} == {
        g.name for g in coupling.groups
    }
    assert Cuts("q:head_dim", 8, 4, True, "head_dim") in plan.groups
    frozen = {g.name for g in coupling.groups if g.why_not is not None}
    assert [x for x in plan.left if x.name in frozen] == [
        Left("embed:in", 12, coupling.group("embed:in").why_not, "mlp"), Left("head", 5, "model output", "mlp"),
    ]  # fmt: skip


def test_a_plan_fits_a_fresh_copy_of_the_model():
    plan = planned("residual_adds")
    torch.manual_seed(1)
    other = NETS["residual_adds"].build()
    coupling = couple(record(other, NETS["residual_adds"].inputs()))
    assert cut(other, NETS["residual_adds"].inputs(), coupling, plan).model.first.out_channels == 12


def without(index: int, *where: tuple[str, str]):
    """Remove one more index from the lists of these tensors."""

    def change(data: dict[str, Any]) -> None:
        for name, dim in where:
            kept = data["keep"].setdefault(name, {}).setdefault(dim, list(range(5)))
            data["keep"][name][dim] = [i for i in kept if i != index]

    return change


FIRST = (("first.weight", "0"), ("first.bias", "0"), ("second.weight", "1"))


def test_an_edit_in_every_tensor_of_a_group_is_accepted():
    plan = planned("residual_adds")
    index = plan.keep["first.weight"][0][0]
    smaller = edited(plan, without(index, *FIRST))
    coupling = known("residual_adds")
    slim = cut(built("residual_adds"), inputs_of("residual_adds"), coupling, smaller).model
    assert slim.first.out_channels == slim.second.in_channels == 11
    assert keep_of(coupling, removed_by(coupling, smaller)) == smaller.keep


def test_a_group_taken_out_of_the_plan_is_whole():
    plan = planned("residual_adds")

    def spare(data: dict[str, Any]) -> None:
        del (
            data["keep"]["first.weight"]["0"],
            data["keep"]["first.bias"],
            data["keep"]["second.weight"]["1"],
        )

    slim = cut(
        built("residual_adds"),
        inputs_of("residual_adds"),
        known("residual_adds"),
        edited(plan, spare),
    ).model
    assert slim.first.out_channels == 24 and slim.inner.out_channels == 16


def test_an_edit_in_one_tensor_names_the_first_that_does_not_agree():
    plan = planned("residual_adds")
    index = plan.keep["first.weight"][0][0]
    half_done = edited(plan, without(index, ("first.weight", "0")))
    with pytest.raises(BadInput) as caught:
        removed_by(known("residual_adds"), half_done)
    assert caught.value.message == (
        "the plan does not fit: first.bias dim 0 keeps 12 of 24, but what it is coupled with keeps 11"
    )
    assert caught.value.hint == "a channel goes from every tensor of its group, or from none"


def test_an_edit_of_other_indices_of_the_same_number_is_refused():
    plan = planned("residual_adds")
    others = sorted(set(range(24)) - set(plan.keep["first.weight"][0]))
    with pytest.raises(BadInput, match=r"the plan does not fit: first.weight dim 0 keeps 12 of 24"):
        removed_by(known("residual_adds"), edited(plan, damage("keep/first.weight/0", others)))


MISFITS = {
    "the plan cuts nothing.weight, which this model does not have\nhint: it was made for another model": damage("keep/nothing.weight", {"0": [0]}),
    "the plan keeps index 99 of first.weight dim 0, which has 24": damage("keep/first.weight/0", [0, 99]),
    "the plan cuts dim 4 of first.weight, which has 4 dims": damage("keep/first.weight/4", [0]),
    "the plan cuts head, which must stay: model output": damage("keep/head.bias", {"0": [0, 1]}),
    "the plan cuts .*, which must stay: ": damage("keep/stem.weight/1", [0, 2]),
    "the plan cuts a channel, which must stay: aten.convolution.default reads it as position, batch or space, at first": damage("keep/first.weight/2", [1]),
}  # fmt: skip


@pytest.mark.parametrize("text", MISFITS)
def test_a_plan_that_does_not_fit_names_the_first_mismatch(text: str):
    model, coupling = built("residual_adds"), known("residual_adds")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(BadInput, match=text):
        cut(
            model,
            inputs_of("residual_adds"),
            coupling,
            edited(planned("residual_adds"), MISFITS[text]),
        )
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(BadInput, match="which this model does not have"):
        removed_by(known("conv_chain"), planned("residual_adds"))


def test_a_state_tensor_that_the_forward_does_not_read_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    coupling = couple(record(Idle(), (torch.zeros(2, 4),)))
    with pytest.raises(
        BadInput, match=r"cuts dim 0 of idle.weight, which the forward does not use as channels"
    ):
        removed_by(coupling, Plan({"idle.weight": {0: (1, 2)}}))


def test_an_empty_plan_removes_nothing():
    assert not removed_by(known("conv_chain"), Plan({})).any()


@pytest.mark.parametrize("name", ["nhwc_round_trip", "class_token", "fused_qkv", "channel_shuffle"])
def test_a_group_may_be_cut_to_one_channel(name: str):
    """torch runs other ops on an extent of one, so only the oracle can tell, and it does."""
    plan = planned(name, ratio=0.99)
    done = cut(built(name), inputs_of(name), known(name), plan)
    assert not done.certain
    assert check(built(name), done.model, plan, inputs_of(name)).error < 1e-9
