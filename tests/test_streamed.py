"""Recovery on streamed examples: as on all at once, in bounded memory, whatever the batches are like."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import surgeon
import surgeon.heal.refit
from surgeon.errors import BadInput
from surgeon.heal.examples import Examples
from surgeon.heal.refit import Healed, refit
from surgeon.heal.ridge import Fit, fit
from surgeon.heal.rows import Draw
from surgeon.heal.spool import Spool
from surgeon.heal.study import study
from surgeon.score.batches import Batches
from surgeon.trace.program import Program, to_program

torch.set_num_threads(1)


class Blocks(nn.Module):
    """A residual behind batch norms; writes in place, and leaves a value in an attribute."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1, bias=False)
        self.after, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.normal_(m.running_mean, 0, 0.1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x *= 0.5
        x = self.norm(self.first(x)).relu_()
        self.last = x
        y = self.after(self.outer(self.inner(x).relu())).data
        y += self.last
        return self.head(y.relu().mean((2, 3)))


@pytest.fixture(scope="module")
def cut() -> tuple[nn.Module, surgeon.Result]:
    torch.manual_seed(0)
    net = Blocks().eval()
    remove = {"first": [1, 5], "inner": [0, 3, 4, 9]}
    return net, surgeon.shrink(net, torch.randn(2, 3, 8, 8), remove=remove, measure=False)


def healed(
    cut: tuple[nn.Module, surgeon.Result],
    batches: Iterable[Any],
    size: int,
    held: int | None = None,
) -> tuple[Healed, dict[str, Tensor]]:
    """What a fit says, and the weights; those of the cut are put back."""
    net, result = cut
    before = {n: t.clone() for n, t in result.model.state_dict().items()}
    with Spool(held) as spool:
        examples = Examples(Batches(batches), spool, net, result.model, size=size)
        found = refit(net, result.model, result.plan, examples, spool)
    after = {n: t.clone() for n, t in result.model.state_dict().items()}
    result.model.load_state_dict(before)
    return found, after


def test_in_several_batches_as_in_one(
    cut: tuple[nn.Module, surgeon.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    strengths: list[float] = []

    def told(*args: Any) -> Fit | None:
        found = fit(*args)
        strengths.append(found.strength if found else 0.0)
        return found

    monkeypatch.setattr(surgeon.heal.refit, "fit", told)
    x = torch.randn(64, 3, 8, 8)
    whole, want = healed(cut, [x], 64)
    chosen, strengths = strengths, []
    parts, got = healed(cut, [x[:30], x[30:63], x[63:]], 9)  # calls of nine, the last of one
    assert chosen == strengths and len(set(chosen)) > 1
    assert [n for n, *_ in whole.layers] == [n for n, *_ in parts.layers]
    assert len(whole.layers) >= 3
    for (_, *a), (_, *b) in zip(whole.layers, parts.layers, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    for name, tensor in want.items():
        assert torch.allclose(tensor, got[name], rtol=1e-4, atol=1e-5), name


def test_on_disk_as_in_memory(cut: tuple[nn.Module, surgeon.Result]) -> None:
    x = torch.randn(40, 3, 8, 8)
    held, want = healed(cut, [x], 16)
    spooled, got = healed(cut, [x], 16, held=0)
    assert held == spooled
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())


def test_a_fit_betters_the_outputs_of_a_network_that_writes_in_place(
    cut: tuple[nn.Module, surgeon.Result],
) -> None:
    net, result = cut
    x, other = torch.randn(64, 3, 8, 8), torch.randn(32, 3, 8, 8)
    _, state = healed(cut, [x], 16, held=0)
    before = {n: t.clone() for n, t in result.model.state_dict().items()}
    want, cut_gives = net(other.clone()), result.model(other.clone())
    result.model.load_state_dict(state)
    got = result.model(other.clone())
    result.model.load_state_dict(before)
    assert (got - want).square().mean() < 0.5 * (cut_gives - want).square().mean()


class Living(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.known.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.known = {k: v for k, v in self.known.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.known.values()))
        return out


class Drawn:
    """Pictures that are made when they are asked for."""

    def __init__(self, batches: int) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        for _ in range(self.batches):
            yield torch.randn(8, 3, 24, 24)


def test_memory_does_not_follow_the_examples(cut: tuple[nn.Module, surgeon.Result]) -> None:
    peaks = []
    for batches in (4, 16):
        with Living() as living:
            healed(cut, Drawn(batches), 8, held=0)
        peaks.append(living.peak)
    assert peaks[1] < 1.25 * peaks[0]


def test_memory_of_the_study_does_not_follow_the_examples(
    cut: tuple[nn.Module, surgeon.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = cut
    coupling = surgeon.trace(net, torch.randn(2, 3, 24, 24)).coupling
    scores = {g.name: np.zeros(g.size) for g in coupling.groups if g.why_not is None}
    monkeypatch.setattr("surgeon.heal.spool.HELD", 0)
    monkeypatch.setattr("surgeon.heal.examples.SIZE", 8)
    peaks = []
    for batches in (16, 64):
        with Living() as living:
            study(net, coupling, scores, Batches(Drawn(batches)), ("select",))
        peaks.append(living.peak)
    assert peaks[1] < 1.25 * peaks[0]


def test_the_study_does_not_depend_on_the_batches(
    cut: tuple[nn.Module, surgeon.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = cut
    coupling = surgeon.trace(net, torch.randn(2, 3, 8, 8)).coupling
    scores = {g.name: np.zeros(g.size) for g in coupling.groups if g.why_not is None}
    x = torch.randn(50, 3, 8, 8)
    whole = study(net, coupling, scores, Batches([x]))
    monkeypatch.setattr("surgeon.heal.examples.SIZE", 7)
    parts = study(net, coupling, scores, Batches([x[:20], x[20:21], x[21:]]))
    assert whole.scores.keys() == parts.scores.keys() and len(whole.scores) > 1
    for name, ranks in whole.scores.items():
        assert ranks.tolist() == parts.scores[name].tolist()
        assert np.allclose(whole.curves[name], parts.curves[name], rtol=1e-3, atol=1e-6)


def test_one_example_fits_nothing(cut: tuple[nn.Module, surgeon.Result]) -> None:
    found, _ = healed(cut, [torch.randn(1, 3, 8, 8)], 4)
    assert found.layers == ()


def test_data_are_read_once_by_a_recovery(cut: tuple[nn.Module, surgeon.Result]) -> None:
    net, _ = cut
    drawn = Drawn(4)  # other pictures each time, as a loader that shuffles
    result = surgeon.shrink(
        net, torch.randn(2, 3, 24, 24), 0.3, measure=False, data=drawn, recover=("compensate",)
    )
    assert drawn.passes == 1
    assert result.recovery is not None and result.recovery.examples == 32
    assert result.recovery.fitted < result.recovery.cut


class Fours(nn.Module):
    """Made for four examples at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.reshape(4, 6)).relu())


def test_the_batch_of_a_program_may_be_fixed() -> None:
    torch.manual_seed(0)
    net = to_program(Fours().eval(), torch.randn(4, 6))
    assert isinstance(net, Program) and net.sizes[0][0] == 4
    data = [torch.randn(n, 6) for n in (5, 12, 1, 17)]
    result = surgeon.shrink(net, torch.randn(4, 6), 0.5, measure=False, data=data)
    assert result.recovery is not None and result.recovery.examples == 32
    assert result.recovery.fitted < result.recovery.cut
    assert "3 examples left out: they make no batch of 4" in result.recovery.notes


def test_a_network_made_for_one_batch_size_gets_the_batches_as_they_are() -> None:
    torch.manual_seed(0)
    net, data = Fours().eval(), [torch.randn(4, 6) for _ in range(20)]
    result = surgeon.shrink(net, data[0], 0.5, measure=False, data=data)
    assert result.recovery is not None and result.recovery.fitted < result.recovery.cut
    with pytest.raises(BadInput, match="forward"):
        surgeon.shrink(net, data[0], 0.5, measure=False, data=[torch.randn(6, 6)])


class Tokens(nn.Module):
    """Sequences of any length, the longest of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(30, 8), nn.Linear(8, 24), nn.Linear(24, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor, flat: bool = False) -> Tensor:
        x = self.embed(ids)
        return self.head((x + self.down(self.up(x).relu())).mean(1))


def test_batches_may_be_of_several_lengths() -> None:
    torch.manual_seed(0)
    net = Tokens().eval()
    data = [{"ids": torch.randint(30, (10, n))} for n in (5, 5, 7, 3, 7)]
    result = surgeon.shrink(net, {"ids": torch.randint(30, (2, 6))}, 0.5, measure=False, data=data)
    assert result.recovery is not None and result.recovery.examples == 50
    assert result.recovery.fitted < 0.7 * result.recovery.cut


def test_calls_have_all_examples_in_order_with_their_labels() -> None:
    x, labels = torch.arange(23.0)[:, None], torch.arange(23)
    pairs = [(x[a:b], labels[a:b]) for a, b in ((0, 9), (9, 10), (10, 23))]
    with Spool() as spool:
        calls = list(Examples(Batches(pairs, labelled=True), spool, size=5))
        assert [c.count for c in calls] == [5, 5, 5, 5, 3]
        assert [c.first for c in calls] == [0, 5, 10, 15, 20]
        assert torch.equal(torch.cat([c.inputs.tensors[0] for c in calls]), x)
        assert torch.equal(torch.cat([c.labels for c in calls if c.labels is not None]), labels)
        calls[0].inputs.tensors[0].zero_()
        assert calls[0].inputs.tensors[0][1] == 1


def test_rows_of_an_example_do_not_depend_on_its_call() -> None:
    whole, parts = Draw(30, 10, 3), Draw(30, 10, 3)
    want = whole.rows(2, 10 * 17, 10)
    got = [parts.rows(2, n * 17, n) for n in (4, 1, 5)]
    assert want is not None and len(want) == 30
    starts = (0, 4, 5)
    both = [g + s * 17 for g, s in zip(got, starts, strict=True) if g is not None]
    assert torch.equal(torch.cat(both), want)
    assert whole.rows(3, 25, 10) is None


def test_what_is_put_aside_comes_back_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tensors = [
        torch.randn(5, 7),
        torch.randn(6).to(torch.bfloat16),
        torch.arange(9),
        torch.ones(()),
    ]
    with Spool(held=80) as spool:
        stored = [spool.put(t) for t in tensors]
        assert stored[1].get() is tensors[1]
        for _ in range(3):
            stored[0].drop()
            stored[0] = spool.put(tensors[0])
        assert spool._end == 140 + 72
        assert all(torch.equal(s.get(), t) for s, t in zip(stored, tensors, strict=True))
    with pytest.raises(KeyboardInterrupt), Spool(held=0) as spool:
        spool.put(tensors[0])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
