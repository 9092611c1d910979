"""Tuning: it learns, it goes on after being killed as if nothing had been, and two processes are as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import surgeon
from surgeon import BadInput
from surgeon.data import DataOptions, open_data
from surgeon.sparse.sparsify import Sparse, sparsify
from surgeon.tune import Tuning
from surgeon.tune.augment import augmentation
from surgeon.tune.order import epoch_order, split, steps_of

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean((2, 3)))


def net(width: int = 8) -> Net:
    torch.manual_seed(0)
    return Net(width).eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def data() -> TensorDataset:
    x, y = digits()
    return TensorDataset(x[:600], y[:600])


@pytest.fixture(scope="module")
def dense(data) -> nn.Module:
    options = Tuning(epochs=6, batch=32, lr=0.1, smoothing=0.0)
    return surgeon.tune(net(), data, options=options, example_inputs=data.tensors[0][:2]).model


X = torch.zeros(2, 1, 8, 8)
QUICK = Tuning(epochs=6, batch=32, lr=0.1)


def right(model: nn.Module) -> float:
    """On digits that nothing here has seen."""
    x, y = digits()
    with torch.no_grad():
        return float((model(x[600:]).argmax(1) == y[600:]).float().mean())


def test_it_learns_and_leaves_the_model_alone(data):
    model, before = net(), net()
    tuned = surgeon.tune(model, data, options=QUICK, example_inputs=X)
    assert same(model, before)
    assert tuned.metric == "top-1"
    assert tuned.score > 0.7 > 0.3 > tuned.before
    assert right(tuned.model) > 0.7
    assert not tuned.model.training
    assert [e.number for e in tuned.history] == [1, 2, 3, 4, 5, 6]
    assert tuned.history[0].loss > tuned.history[-1].loss
    assert tuned.score == max(e.score for e in tuned.history)


def test_the_callers_random_numbers_are_left_alone(data):
    model = net()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    surgeon.tune(model, data, options=Tuning(epochs=1, batch=64), example_inputs=X)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_from_the_teacher_alone(data, dense, features):
    slim = surgeon.shrink(dense, X, 0.5, check=False, measure=False)
    unlabelled = [part for part in data.tensors[0].split(100)]
    options = Tuning(epochs=6, batch=32, lr=0.05, features=features)
    tuned = surgeon.tune(slim, unlabelled, dense, options)
    assert tuned.metric == "loss"
    assert tuned.score < 0.5 * tuned.before
    assert right(tuned.model) > right(slim.model) + 0.1
    assert any("conv" in n or "bn" in n for n in tuned.notes) == bool(features)


def test_a_teacher_helps_labels(data, dense):
    slim = surgeon.shrink(dense, X, 0.5, check=False, measure=False)
    seen = []
    tuned = surgeon.tune(slim, data, dense, QUICK, watch=seen.append)
    assert tuned.score > tuned.before
    assert (seen[-1].epoch, seen[-1].step) == (6, seen[-1].steps)


def test_a_program_is_tuned_too(data, dense, tmp_path):
    slim = surgeon.shrink(dense, X, 0.5, check=False, measure=False)
    surgeon.save(slim, tmp_path / "slim.pth")
    loaded = surgeon.load(tmp_path / "slim.pth")
    as_module = surgeon.tune(slim, data, options=QUICK)
    as_program = surgeon.tune(loaded, data, options=QUICK, example_inputs=X)
    assert as_program.score == pytest.approx(as_module.score, abs=0.02)


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_killed_run_goes_on_to_the_same_result(data, dense, tmp_path, kind):
    options = Tuning(epochs=4, batch=64, optimizer=kind, lr=0.01, state=tmp_path / "state.pt")
    start = surgeon.shrink(dense, X, 0.5, check=False, measure=False)
    whole = surgeon.tune(start, data, dense, Tuning(**{**vars(options), "state": None}))

    def kill(step):
        if step.epoch == 3 and step.step == 2:
            raise Stop

    with pytest.raises(Stop):
        surgeon.tune(start, data, dense, options, watch=kill)
    steps = []
    again = surgeon.tune(start, data, dense, options, watch=steps.append)
    assert steps[0].epoch == 3
    assert again.history == whole.history
    assert same(again.model, whole.model)
    with pytest.raises(BadInput, match="other options, data or weights"):
        surgeon.tune(start, data, dense, Tuning(**{**vars(options), "lr": 0.02}))
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(BadInput, match="cannot be read"):
        surgeon.tune(start, data, dense, options)


def test_early_stop_and_the_best_epoch(data):
    options = Tuning(epochs=9, batch=32, lr=5.0, warmup=0, patience=2, smoothing=0.0, ema=0)
    good = surgeon.tune(net(), data, options=QUICK, example_inputs=X).model
    tuned = surgeon.tune(good, data, options=options, example_inputs=X)
    assert len(tuned.history) - tuned.epoch == 2
    assert tuned.score >= tuned.before
    if tuned.epoch == 0:
        assert same(tuned.model, good)


def test_the_last_epoch_is_kept_where_that_is_asked(data, dense):
    worse = {"epochs": 2, "batch": 32, "lr": 1.0, "schedule": "constant", "ema": 0.0, "warmup": 0.0}
    best = surgeon.tune(dense, data, options=Tuning(**worse), example_inputs=X)
    last = surgeon.tune(dense, data, options=Tuning(**worse, keep="last"), example_inputs=X)
    assert best.epoch == 0 and same(best.model, dense)  # so high a rate spoils it
    assert last.epoch == 2 and last.score == last.history[-1].score < last.before
    assert not same(last.model, dense)


def test_masks_stay_while_what_they_leave_is_trained(data, dense):
    masked = sparsify(dense, Sparse(0.5, hooks=True)).model
    tuned = surgeon.tune(masked, data, options=QUICK, example_inputs=X).model
    zeros = (masked.conv2.weight == 0) & (masked.conv2.weight_mask == 0)
    assert zeros.any() and torch.equal(tuned.conv2.weight == 0, zeros)
    assert not torch.equal(tuned.conv2.weight, masked.conv2.weight)
    assert right(tuned) > 0.7


def test_numbers_and_an_own_loss(data):
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    pairs = TensorDataset(x, x @ torch.randn(6))
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    options = Tuning(epochs=8, batch=32, lr=0.01)
    tuned = surgeon.tune(model, pairs, options=options, example_inputs=x[:2])
    assert tuned.metric == "loss"
    assert tuned.score < 0.3 * tuned.before
    own = Tuning(epochs=2, batch=32, loss=lambda out, y: (out[:, 0] - y).abs().mean())
    assert surgeon.tune(model, pairs, options=own, example_inputs=x[:2]).metric == "loss"


def test_refusals(data, dense):
    unlabelled = [data.tensors[0]]
    with pytest.raises(BadInput, match="no labels"):
        surgeon.tune(net(), unlabelled, options=QUICK, example_inputs=X)
    with pytest.raises(BadInput, match="do not answer alike"):
        surgeon.tune(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            unlabelled,
            dense,
            QUICK,
            example_inputs=X,
        )
    with pytest.raises(BadInput, match="a label is 9, and the network tells 3"):
        surgeon.tune(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), data, options=QUICK, example_inputs=X
        )
    with pytest.raises(BadInput, match="loss became"):
        surgeon.tune(
            net(), data, options=Tuning(epochs=1, batch=32, lr=1e9, warmup=0), example_inputs=X
        )
    with pytest.raises(BadInput, match="schedule 'step' is unknown"):
        Tuning(schedule="step")
    with pytest.raises(BadInput, match="epochs is 0"):
        Tuning(epochs=0)


def test_the_held_out_are_never_trained_on():
    train, held = split(list(range(100)), 0.2, seed=1)
    assert len(held) == 20
    assert not set(train) & set(held)
    order = epoch_order(train, 16, 1, seed=1)
    assert [len(part) for part in order] == [16] * 5
    assert not {i for part in order for i in part} & set(held)
    assert order != epoch_order(train, 16, 2, seed=1)
    assert order == epoch_order(train, 16, 1, seed=1)
    with pytest.raises(BadInput, match="does not split over 3"):
        steps_of(100, 16, 3)


def test_augmentation_depends_on_seed_epoch_and_example_alone():
    picture = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    change = augmentation("trivial", (16, 16), 0, 1)
    assert change is not None
    made = [change(picture, i) for i in range(8)]
    assert all(m.shape == picture.shape for m in made)
    assert any(not torch.equal(m, made[0]) for m in made)
    torch.manual_seed(3)
    assert torch.equal(change(picture, 5), made[5])
    later = augmentation("trivial", (16, 16), 0, 2)
    assert later is not None
    assert any(not torch.equal(later(picture, i), made[i]) for i in range(8))


def test_what_samples_chose_is_what_is_trained_on(data):
    some = open_data(data, X, DataOptions(samples=100))
    tuned = surgeon.tune(net(), some, options=QUICK, example_inputs=X)
    assert any("trained on 90 examples" in note for note in tuned.notes)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_tune import together
together(sys.argv[2], sys.argv[3])
"""


def together(slim: str, out: str) -> None:
    """Tune a module and a program with a teacher, and write what came of it."""
    from accelerate import PartialState

    x, y = digits()
    data = TensorDataset(x[:300], y[:300])
    options = Tuning(epochs=2, batch=32, lr=0.05)
    for form, student in (
        ("module", surgeon.load(slim, model=net())),
        ("program", surgeon.load(slim)),
    ):
        tuned = surgeon.tune(student, data, net(), options, example_inputs=X)
        state = PartialState()
        if state.is_main_process:
            numbers = [(e.loss, e.score) for e in tuned.history]
            found = {
                "state": tuned.model.state_dict(),
                "numbers": numbers,
                "n": state.num_processes,
            }
            torch.save(found, f"{out}-{form}")


def test_two_processes_do_what_one_does(tmp_path):
    slim, script = str(tmp_path / "slim.pth"), tmp_path / "run.py"
    surgeon.save(surgeon.shrink(net(), X, 0.5, check=False, measure=False), slim)
    script.write_text(SCRIPT)
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1".split()
    launch += "--mixed_precision no --dynamo_backend no --main_process_port 0".split()
    given = [str(script), str(ROOT / "tests"), slim, str(tmp_path / "two")]
    # accelerate starts it as on GPUs; gloo carries it here
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *launch, *given], check=True, env={**os.environ, **hidden})
    together(slim, str(tmp_path / "one"))
    for form in ("module", "program"):
        one, two = (torch.load(tmp_path / f"{n}-{form}", weights_only=True) for n in ("one", "two"))
        assert (one["n"], two["n"]) == (1, 2)
        for alone, both in zip(one["numbers"], two["numbers"], strict=True):
            assert both == pytest.approx(alone, rel=1e-3)
        for name, tensor in one["state"].items():
            torch.testing.assert_close(two["state"][name], tensor, rtol=1e-3, atol=1e-4)
