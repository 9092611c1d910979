"""Compensation: every layer behind a cut is fitted anew to what the dense network gave there, in order of the forward.

Call by call, the dense network's results are kept at some rows, and the slim one's forward is written down. Then that goes
on from layer to layer, all calls together, and each layer, before it runs, gets the weights that bring its result closest to the
dense one, given what the layers before it, fitted already, hand over. Where its result is added to another value, it also
makes up for what that value lacks. No layer is added, and no label is read. Memory: one call, and sums of products.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surgeon.heal.examples import Call, Examples
from surgeon.heal.layers import Layer, layer_of, out_rows
from surgeon.heal.outputs import numbers
from surgeon.heal.ridge import Moments, fit
from surgeon.heal.rows import CHUNK, Draw
from surgeon.heal.running import running
from surgeon.heal.spool import Spool, Stored
from surgeon.heal.tape import Here, Recorder, Replay
from surgeon.heal.watch import Sum, Track, Watch, by_storage
from surgeon.plan import Plan
from surgeon.trace.tensors import named_state

ROWS = 16384  # of each layer's results, over all examples
_HELD = 5  # one example in five chooses the strength


@dataclass(frozen=True)
class Healed:
    """What was fitted: (layer, relative error of its result before, after), in order; and what was left."""

    layers: tuple[tuple[str, float, float], ...]
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class _Rows:
    """Of one call, the dense network's results of a layer at rows `at`; `other`: of the other value of its sum."""

    at: Tensor
    want: Stored
    other: Stored | None = None


@dataclass(eq=False)
class _Target:
    """What the dense network says of one layer. `mean`: the running mean that is taken off its result;
    `scale`: of its kept outputs, what multiplies them before the sum."""

    layer: str
    out_dim: int
    rows: dict[int, _Rows] = field(default_factory=dict)  # by the call's first example
    mean: str | None = None
    scale: Tensor | None = None


@dataclass(frozen=True)
class _Taped:
    """The slim network's forward of one call, and the sums that its layers' results go to."""

    call: Call
    replay: Replay
    sums: dict[int, Sum]


def refit(
    model: nn.Module, slim: nn.Module, plan: Plan, examples: Examples, spool: Spool
) -> Healed:
    """Fit `slim` to `model` in place."""
    fitting = Fitting(model, slim, plan, examples.count, spool)
    for call in examples:
        fitting.look(call)
    return fitting.fit()


class Fitting:
    """Looks at both networks call by call, then fits `slim` to `model` in place."""

    def __init__(
        self, model: nn.Module, slim: nn.Module, plan: Plan, examples: int, spool: Spool
    ) -> None:
        self.model, self.slim, self._spool = model, slim, spool
        self._dense = _Dense(plan, Draw(ROWS, examples, seed=0), spool)
        self._state, self._names = named_state(slim), by_storage(slim)
        self._taped: list[_Taped] = []
        self._ops: list[str] | None = None
        self._left = 0

    def look(self, call: Call) -> tuple[list[Tensor], list[Tensor]]:
        """Run both networks; what they give."""
        dense, inputs = self._dense.of(call), call.inputs
        watch = Watch(self.model, None, dense.after, dense.summed, dense.normed)
        with running(self.model), watch:
            want = inputs.run(self.model)
        inputs, sums = call.inputs, dict[int, Sum]()

        def summed(found: Sum, _other: Tensor) -> None:
            sums.setdefault(found.track.layer, found)

        told = Watch(self.slim, summed=summed)
        recorder = Recorder(self.slim, inputs)
        with running(self.slim), told, recorder:
            got = inputs.run(self.slim)
        self._ops = told.ops if self._ops is None else self._ops
        if watch.ops == told.ops == self._ops:
            sums = {n: s for n, s in sums.items() if n in dense.others}
            for number, found in sums.items():
                recorder.tape.keep(found.made.number, number)
            self._taped.append(_Taped(call, Replay(recorder.tape, call, self._spool), sums))
        else:
            self._left += call.count
        return numbers(want), numbers(got)

    def fit(self) -> Healed:
        """Every layer that is used once, in order."""
        targets = self._dense.targets
        uses = Counter(t.layer for t in targets.values())
        done = []
        with running(self.slim):
            for number in sorted(n for n, t in targets.items() if uses[t.layer] == 1):
                errors = self._fitted(number, targets[number])
                done += [(targets[number].layer, *errors)] if errors else []
        return Healed(tuple(done), self._notes())

    def _notes(self) -> tuple[str, ...]:
        if not self._taped:
            return ("the slim network runs other ops than the original: nothing was fitted",)
        said = f"{self._left} examples were left out of the fit: the forward runs other ops on them"
        return (said,) if self._left else ()

    def _fitted(self, number: int, target: _Target) -> tuple[float, float] | None:
        """Errors of the layer's result before and after; None where its weights stay."""
        seen, held, layer = Moments(), Moments(), None
        for taped in self._taped:
            rows = target.rows.pop(taped.call.first, None)
            if rows is None:
                continue
            with taped.replay.until(number) as here:
                layer = layer_of(here.op, here.args, self._names)
                if layer is None:
                    return None
                want = rows.want.get()
                if rows.other is not None and number in taped.sums:
                    want = want + _lacking(target, rows, taped.sums[number], here)
                _add((seen, held), layer, rows.at, want, taped.call)
            rows.want.drop()
        if layer is None or not (seen.rows and held.rows):
            return None
        found = fit(
            seen, held, layer.matrix, layer.bias_name is not None or target.mean is not None
        )
        if found is None:
            return None
        layer.put(found.weight)
        self._shift(layer, target.mean, found.shift.flatten())
        return found.before, found.after

    def _shift(self, layer: Layer, name: str | None, shift: Tensor) -> None:
        """Into the layer's own bias, or off the running mean of the norm behind it."""
        if layer.bias is not None:
            layer.bias.add_(shift.to(layer.bias.dtype))
        elif name is not None:
            mean = self._state[name]
            mean.sub_(shift.to(mean.dtype))


class _Dense:
    """Takes the dense network's results at rows, call by call: `of(call)`, then what a watch tells."""

    def __init__(self, plan: Plan, draw: Draw, spool: Spool) -> None:
        self.targets: dict[int, _Target] = {}
        self._plan, self._draw, self._spool = plan, draw, spool

    def of(self, call: Call) -> _Dense:
        """From here on it is this call."""
        self._call, self.others = call, set[int]()
        return self

    def after(self, number: int, layer: Layer, out: Tensor) -> None:
        total = out.numel() // out.shape[1 if layer.conv else -1]
        at = self._draw.rows(number, total, self._call.count)
        if at is None:
            return
        target = self.targets.setdefault(number, _Target(layer.name, layer.out_dim))
        kept = self._kept(target, out_rows(out, at, bool(layer.conv)))
        if layer.bias is not None:
            kept = kept - self._kept(target, layer.bias[None])
        target.rows[self._call.first] = _Rows(at, self._spool.put(kept))

    def summed(self, found: Sum, other: Tensor) -> None:
        number, scale = found.track.layer, found.track.scale
        rows = self._here(number)
        if rows is None or rows.other is not None or other.shape[0] % self._call.count:
            return
        target = self.targets[number]
        kept = self._kept(target, out_rows(other, rows.at, found.track.conv))
        rows.other = self._spool.put(kept)
        keep = self._plan.keep.get(target.layer, {}).get(target.out_dim)
        target.scale = scale if scale is None or keep is None else scale[list(keep)]
        self.others.add(number)

    def normed(self, track: Track) -> None:
        if self._here(track.layer) is not None:
            self.targets[track.layer].mean = track.mean

    def _here(self, number: int) -> _Rows | None:
        return self.targets[number].rows.get(self._call.first) if number in self.targets else None

    def _kept(self, target: _Target, rows: Tensor) -> Tensor:
        """The kept columns of results, scaled where the cut put a factor into the weights that make them."""
        kept = self._plan.keep.get(target.layer, {}).get(target.out_dim)
        rows = (rows if kept is None else rows[:, list(kept)]).clone()
        for first, last, by in self._plan.folds.get(target.layer, ()):
            rows[:, first:last] *= by
        return rows


def _add(both: tuple[Moments, Moments], layer: Layer, at: Tensor, want: Tensor, call: Call) -> None:
    """To the moments that fit, and to those of the examples held out."""
    want = want.view(len(at), layer.groups, -1)
    example = call.first + torch.arange(len(at)) // (len(at) // call.count)
    for moments, chosen in zip(both, (example % _HELD > 0, example % _HELD == 0), strict=True):
        for part in chosen.nonzero()[:, 0].split(CHUNK) if chosen.any() else ():
            moments.add(layer.data(at[part]), want[part])


def _lacking(target: _Target, rows: _Rows, found: Sum, here: Here) -> Tensor:
    """What the other value of the sum lacks, as the layer before its scale must give it."""
    assert rows.other is not None
    other = found.made.of(here.gave(found.made.number))
    lacks = rows.other.get() - out_rows(other, rows.at, found.track.conv)
    rows.other.drop()
    if target.scale is None:
        return lacks
    weak = target.scale.abs() < 1e-3 * target.scale.abs().max()
    return torch.where(weak, 0.0, lacks / torch.where(weak, 1.0, target.scale))
