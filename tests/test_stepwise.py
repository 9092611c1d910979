"""Several cuts, trained between: counted from the original, proven, resumed; and weights that begin anew."""

import copy
import math
from pathlib import Path

import pytest
import torch
from nets import NETS
from test_tune import X, digits, net, right, same
from torch import nn
from torch.utils.data import TensorDataset

import surgeon
from surgeon import BadInput, OutOfReach, Tuning
from surgeon.data import DataOptions, open_data
from surgeon.schedule import ratio_at
from surgeon.slices import sliced
from surgeon.structure import check_structure
from surgeon.trace.tensors import named_state

torch.set_num_threads(1)
QUICK = {"measure": False}


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    x, y = digits()
    return TensorDataset(x[:400], y[:400])


@pytest.fixture(scope="module")
def dense(data) -> nn.Module:
    options = Tuning(epochs=4, batch=32, lr=0.1, smoothing=0.0)
    return surgeon.tune(net(16), data, options=options, example_inputs=X).model


def kept(result: surgeon.Result) -> dict[str, int]:
    return {g.name: g.kept for g in result.plan.groups}


# what goes


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"ratio": 0.5, "scope": "global"},
        {"ratio": 0.5, "round_to": 4},
        {"max_flops": "0.4x"},
        {"max_params": 600},
        {"ratio": 0.25, "ratio_for": {"conv2": 0.75}},
    ],
)
def test_ratios_and_limits_are_of_the_original(dense, options):
    whole = surgeon.shrink(dense, X, **options, **QUICK)
    stepped = surgeon.shrink(dense, X, **options, **QUICK, steps=4, schedule="polynomial")
    assert stepped.plan.removed == pytest.approx(whole.plan.removed, abs=2)
    if "scope" not in options and "max_flops" not in options and "max_params" not in options:
        assert kept(stepped) == kept(whole)
    shares = [c.share for c in stepped.history]
    assert len(shares) > 1
    assert shares == [ratio_at("polynomial", c.step, 4) for c in stepped.history]
    assert all(c.error is not None and c.error <= 1e-9 for c in stepped.history)
    assert stepped.plan.request["steps"] == 4
    # nothing was trained: the masked original is still what it computes
    surgeon.check(dense, stepped.model, stepped.plan, stepped.inputs)


def test_a_later_step_is_chosen_on_what_is_left():
    """Of two layers in a row the second's filters lose inputs: their norms are others in the second step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(6.0)[:, None].expand(6, 4) + 1)
        model[2].weight.fill_(0.1)
        model[2].weight[0, 0] = 50.0  # filter 0 is large by an input that goes first
        for row in (1, 2, 3):
            model[2].weight[row, 3:] = float(row)
        model[4].weight.fill_(0.01)
    x = torch.zeros(2, 4)
    how = {"by": "filter", **QUICK}
    once = surgeon.shrink(model, x, 0.5, **how)
    twice = surgeon.shrink(model, x, 0.5, steps=2, **how)
    assert once.plan.keep["2.weight"][0] == (0, 3)
    assert twice.plan.keep["2.weight"][0] == (2, 3)
    assert twice.plan.keep["0.weight"][0] == (3, 4, 5)


def test_what_goes_by_hand_goes_in_the_first_step(dense):
    r = surgeon.shrink(dense, X, 0.5, remove={"conv1": [3, 5]}, steps=2, **QUICK)
    assert not {3, 5} & set(r.plan.keep["conv1.weight"][0])
    assert kept(r) == {"conv1": 14, "conv2": 16}
    assert r.history[0].channels == 2 + 8


def test_a_step_too_small_for_a_channel_cuts_nothing(dense):
    r = surgeon.shrink(dense, X, 0.1, steps=8, schedule="one-cycle", **QUICK)
    assert kept(r) == kept(surgeon.shrink(dense, X, 0.1, **QUICK))
    assert len(r.history) < 8
    assert any("removes no whole channel" in note for note in r.notes)
    with pytest.raises(OutOfReach):
        surgeon.shrink(dense, X, 0.001, steps=2, **QUICK)


@pytest.mark.parametrize(
    "name",
    ["residual_adds", "fused_qkv", "module_attention", "dense_concat", "zero_padded_shortcut", "lstm"],
)  # fmt: skip
def test_steps_of_hard_nets(name):
    model, inputs = NETS[name].build(), NETS[name].inputs()
    whole = surgeon.shrink(model, inputs, 0.5, check=False, **QUICK)
    r = surgeon.shrink(model, inputs, 0.5, steps=3, schedule="exponential", **QUICK)
    assert kept(r) == kept(whole)
    assert len(r.history) > 1
    surgeon.check(model, r.model, r.plan, r.inputs)


def test_with_data_every_step_is_chosen_and_fitted_by_them(dense, data):
    x, _ = data.tensors
    r = surgeon.shrink(dense, X, 0.5, data=[x[:64]], steps=3, **QUICK)
    assert r.plan.removed == pytest.approx(24, abs=2)
    assert r.recovery is not None
    assert r.recovery.fitted < r.recovery.cut
    assert r.plan.model["tuned"]["by"] == "least squares"
    assert check_structure(dense, r.model, r.plan, r.inputs).error < 1e-9


# training


def tuned(dense: nn.Module, data: TensorDataset, **options) -> surgeon.Result:
    how = Tuning(2, 32, lr=0.05)
    return surgeon.shrink(dense, X, 0.75, steps=2, tune=how, train=data, **QUICK, **options)


def test_tuned_between_and_after(dense, data, tmp_path):
    untouched = copy.deepcopy(dense)
    cut = surgeon.shrink(dense, X, 0.75, **QUICK)
    r = tuned(dense, data)
    assert same(untouched, dense)
    assert kept(r) == kept(cut)
    assert [c.step for c in r.history] == [1, 2]
    assert all(c.metric == "top-1" and c.score >= c.before for c in r.history)
    assert right(r.model) > right(cut.model) + 0.2
    assert r.plan.model["tuned"]["metric"] == "top-1"
    assert check_structure(dense, r.model, r.plan, r.inputs).error < 1e-9
    slim = surgeon.apply(r.plan, dense, X)
    assert [p.shape for p in slim.parameters()] == [p.shape for p in r.model.parameters()]
    surgeon.save(r, tmp_path / "slim.pth")
    assert same(surgeon.load(tmp_path / "slim.pth", model=net(16)), r.model)
    assert r.report["steps"][1]["score"] == r.history[1].score


def test_the_original_teaches_unless_somebody_else_is_named(dense, data):
    x, _ = data.tensors
    from_it = surgeon.shrink(
        dense, X, 0.5, tune=Tuning(1, 32, lr=0.05), train=TensorDataset(x), **QUICK
    )
    assert from_it.history[0].metric == "loss"  # no label was given
    with pytest.raises(BadInput, match="no labels"):
        surgeon.shrink(dense, X, 0.5, tune=1, train=TensorDataset(x), teacher=None, **QUICK)


def test_a_program_is_cut_and_trained_step_by_step():
    case = NETS["zero_padded_shortcut"]
    model, (x,) = case.build(), case.inputs()
    torch.manual_seed(0)
    many = torch.randn(48, *x.shape[1:])
    how = {"tune": Tuning(1, 16, lr=0.01, augment="none"), "train": TensorDataset(many)}
    r = surgeon.shrink(model, (x,), 0.5, steps=2, **how, **QUICK)
    assert r.way == "program"
    assert len(r.history) == 2
    assert check_structure(model, r.model, r.plan, r.inputs).error < 1e-9


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was(dense, data, tmp_path):
    whole = tuned(dense, data)
    seen: list[int] = []

    def watch(at) -> None:
        seen.append(at.epoch)
        if len(seen) > 2 * at.steps + at.steps + 2:  # in the second epoch of the second step
            raise Killed

    with pytest.raises(Killed):
        tuned(dense, data, state=tmp_path, watch=watch)
    assert {p.name for p in tmp_path.iterdir()} == {"steps.pt", "tune-2.pt"}
    before = len(seen)
    again = tuned(dense, data, state=tmp_path, watch=lambda at: seen.append(at.epoch))
    assert set(seen[before:]) == {2}
    assert same(again.model, whole.model)
    assert again.history == whole.history
    assert again.plan.keep == whole.plan.keep
    for other in ({"ratio": 0.5}, {"teacher": None}, {"rewind": net(16).state_dict()}):
        asked = {"ratio": 0.75, "tune": Tuning(2, 32, lr=0.05), **other}
        with pytest.raises(BadInput, match="of a run with other options"):
            surgeon.shrink(dense, X, steps=2, train=data, state=tmp_path, **asked, **QUICK)


# weights that begin anew


def test_rewound_weights_are_the_earlier_ones_of_what_stays(dense):
    early = net(16)
    r = surgeon.shrink(dense, X, 0.5, rewind=early, **QUICK)
    assert kept(r) == kept(surgeon.shrink(dense, X, 0.5, **QUICK))
    own = named_state(early)
    for name, tensor in named_state(r.model).items():
        assert torch.equal(tensor, sliced(own[name], r.plan.keep.get(name, {}))), name
    assert r.plan.model["tuned"]["by"].startswith("rewound")
    assert check_structure(dense, r.model, r.plan, r.inputs).error < 1e-9
    with pytest.raises(BadInput, match=r"another network: conv1\.weight"):
        surgeon.shrink(dense, X, 0.5, rewind=net(8).state_dict(), **QUICK)


def test_rewound_after_each_step(dense, data):
    early = net(16)
    how = {"tune": Tuning(1, 32, lr=0.05), "train": data, "steps": 2}
    r = surgeon.shrink(dense, X, 0.5, rewind=early, **how, **QUICK)
    cut = surgeon.apply(r.plan, early, X)
    again = surgeon.tune(cut, data, dense, Tuning(1, 32, lr=0.05), example_inputs=X).model
    assert same(again, r.model)


@pytest.mark.parametrize("way", ["module", "program"])
def test_new_weights_come_from_the_modules_themselves(way):
    case = NETS["residual_adds" if way == "module" else "zero_padded_shortcut"]
    model, inputs = case.build(), case.inputs()
    r = surgeon.shrink(model, inputs, 0.5, reinit=True, seed=3, **QUICK)
    assert r.way == way
    cut = surgeon.shrink(model, inputs, 0.5, **QUICK)
    stem = named_state(r.model)["stem.weight"].detach()
    assert not torch.equal(stem, named_state(cut.model)["stem.weight"])
    # Kaiming's bound of the slim layer's own inputs
    bound = 1 / math.sqrt(stem[0].numel())
    assert 0.8 * bound < float(stem.abs().max()) <= bound
    head = named_state(r.model)["head.weight"].detach()
    assert 0.7 / math.sqrt(head.shape[1]) < float(head.abs().max()) <= 1 / math.sqrt(head.shape[1])
    assert check_structure(model, r.model, r.plan, r.inputs).error < 1e-9
    again = surgeon.shrink(model, inputs, 0.5, reinit=True, seed=3, **QUICK)
    other = surgeon.shrink(model, inputs, 0.5, reinit=True, seed=4, **QUICK)
    assert same(again.model, r.model)
    assert not torch.equal(named_state(other.model)["stem.weight"], stem)


def test_parameters_that_nobody_resets_stay():
    case = NETS["layer_scale"]
    model, inputs = case.build(), case.inputs()
    loose = [
        n for n, _ in model.named_parameters() if n.rpartition(".")[2] not in ("weight", "bias")
    ]
    assert loose
    r = surgeon.shrink(model, inputs, 0.5, reinit=True, **QUICK)
    cut = surgeon.shrink(model, inputs, 0.5, **QUICK)
    for name in loose:
        assert torch.equal(named_state(r.model)[name], named_state(cut.model)[name])
    said = next(n for n in r.notes if n.startswith("no reset_parameters"))
    assert loose[0] in said
    assert not any(t.isnan().any() for t in r.model.state_dict().values())


# what cannot be meant


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tune": 2}, "tuning needs data"),
        ({"schedule": "linear"}, "schedule says how"),
        ({"steps": 2, "schedule": "cubic"}, "no schedule 'cubic'"),
        ({"steps": 0}, "steps 0"),
        ({"steps": 2.0}, "steps 2.0"),
        ({"tune": 0, "train": [X]}, "tune 0"),
        ({"rewind": net(16), "reinit": True}, "not both"),
        ({"reinit": True, "steps": 2}, "nobody trained"),
        ({"reinit": True, "data": [X], "recover": ("compensate",)}, "what recovery fits is gone"),
        ({"train": [X]}, "tune= is missing"),
    ],
)
def test_refused_before_the_model_is_looked_at(options, says):
    with pytest.raises(BadInput, match=says):
        surgeon.shrink(nn.Identity(), X, 0.5, **options)


def test_dead_has_no_steps(dense):
    with pytest.raises(BadInput, match="no steps to it"):
        surgeon.shrink(dense, X, dead=True, steps=2)


def test_samples_are_tuned_on_whole(dense, data, tmp_path: Path):
    torch.save(data.tensors, tmp_path / "data.pt")
    few = open_data(tmp_path / "data.pt", X, DataOptions(samples=32))
    r = surgeon.shrink(dense, X, 0.5, data=few, tune=Tuning(1, 32, lr=0.05), **QUICK)
    assert any("trained on 360 examples" in n for n in r.notes)
    assert r.recovery is not None
    assert r.recovery.examples == 32
