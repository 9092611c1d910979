"""Compensation: every layer behind a cut is fitted anew to what the dense network gave there, in order of the forward.

Call by call, the dense network's results are kept at some rows, and the slim one's forward is written down. Then that goes
on from layer to layer, all calls together, and each layer, before it runs, gets the weights that bring its result closest to the
dense one, given what the layers before it, fitted already, hand over. Where its result is added to another value, it also
makes up for what that value lacks. No layer is added, and no label is read. Memory: one call, and sums of products.
"""

from __future__ import annotations

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
from surgeon.heal.watch import Sum, Track, Use, Watch, by_storage
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
    """Of one call, the dense network's results of a layer at rows `at` of `total`; `other`: of the other value of its sum."""

    at: Tensor
    total: int
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
    """The slim network's forward of one call: op and rows of its layers, and the sums that their results go to."""

    call: Call
    replay: Replay
    layers: dict[Use, tuple[int, int]]
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
        self._often: set[str] = set()  # weights that are used several times

    def look(self, call: Call) -> tuple[list[Tensor], list[Tensor]]:
        """Run both networks; what they give."""
        inputs, dense = call.inputs, self._dense.watch(self.model, call)
        with running(self.model), dense:
            want = inputs.run(self.model)
        inputs, sums, rows = call.inputs, dict[int, Sum](), dict[int, int]()

        def after(number: int, layer: Layer, out: Tensor) -> None:
            rows[number] = _total(layer, out)

        def summed(found: Sum, _other: Tensor) -> None:
            sums.setdefault(found.track.layer, found)

        watch = Watch(self.slim, after=after, summed=summed)
        recorder = Recorder(self.slim, inputs)
        with running(self.slim), watch, recorder:
            got = inputs.run(self.slim)
        needed = {n: s for n, s in sums.items() if self._dense.has_other(watch.uses[n])}
        for number, found in needed.items():
            recorder.tape.keep(found.made.number, number)
        layers = {use: (n, rows[n]) for n, use in watch.uses.items()}
        both = (*dense.uses.values(), *watch.uses.values())
        self._often |= {name for name, before in both if before}
        replay = Replay(recorder.tape, call, self._spool)
        self._taped.append(_Taped(call, replay, layers, needed))
        return numbers(want), numbers(got)

    def fit(self) -> Healed:
        """Every layer that is used once and runs in both networks, in order."""
        targets, order = self._dense.targets, dict[Use, int]()
        for taped in self._taped:
            order.update((use, n) for use, (n, _) in taped.layers.items() if use not in order)
        once = [use for use in targets if use[0] not in self._often]
        done = []
        with running(self.slim):
            for use in sorted((u for u in once if u in order), key=lambda u: order[u]):
                errors = self._fitted(use, targets[use])
                done += [(use[0], *errors)] if errors else []
        lost = ", ".join([name for name, _ in once if (name, 0) not in order][:4])
        said = f"the slim network runs these layers otherwise, they were not fitted: {lost}"
        return Healed(tuple(done), (said,) if lost else ())

    def _fitted(self, use: Use, target: _Target) -> tuple[float, float] | None:
        """Errors of the layer's result before and after; None where its weights stay."""
        seen, held, layer = Moments(), Moments(), None
        for taped in self._taped:
            rows = target.rows.pop(taped.call.first, None)
            number, total = taped.layers.get(use, (-1, -1))
            if rows is None or total != rows.total or taped.replay.passed(number):
                continue
            with taped.replay.until(number) as here:
                layer = layer_of(here.op, here.args, self._names)
                assert layer is not None
                want = rows.want.get()
                if number in taped.sums:
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
    """Takes the dense network's results at rows, call by call, as a watch tells of them."""

    def __init__(self, plan: Plan, draw: Draw, spool: Spool) -> None:
        self.targets: dict[Use, _Target] = {}
        self._plan, self._draw, self._spool = plan, draw, spool

    def watch(self, model: nn.Module, call: Call) -> Watch:
        """For the run of this call."""
        self._call = call
        self._watch = Watch(model, None, self._after, self._summed, self._normed)
        return self._watch

    def has_other(self, use: Use) -> bool:
        """Whether in this call the layer's result went to a sum."""
        rows = self.targets[use].rows.get(self._call.first) if use in self.targets else None
        return rows is not None and rows.other is not None

    def _after(self, number: int, layer: Layer, out: Tensor) -> None:
        total = _total(layer, out)
        at = self._draw.rows(number, total, self._call.count)
        if at is None:
            return
        new = _Target(layer.name, layer.out_dim)
        target = self.targets.setdefault(self._watch.uses[number], new)
        kept = self._kept(target, out_rows(out, at, bool(layer.conv)))
        if layer.bias is not None:
            kept = kept - self._kept(target, layer.bias[None])
        target.rows[self._call.first] = _Rows(at, total, self._spool.put(kept))

    def _summed(self, found: Sum, other: Tensor) -> None:
        target, rows = self._here(found.track)
        if target is None or rows is None or rows.other is not None:
            return
        if other.shape[0] % self._call.count:
            return
        kept = self._kept(target, out_rows(other, rows.at, found.track.conv))
        rows.other = self._spool.put(kept)
        keep, scale = self._plan.keep.get(target.layer, {}).get(target.out_dim), found.track.scale
        target.scale = scale if scale is None or keep is None else scale[list(keep)]

    def _normed(self, track: Track) -> None:
        target, _ = self._here(track)
        if target is not None:
            target.mean = track.mean

    def _here(self, track: Track) -> tuple[_Target | None, _Rows | None]:
        target = self.targets.get(self._watch.uses[track.layer])
        return target, target.rows.get(self._call.first) if target is not None else None

    def _kept(self, target: _Target, rows: Tensor) -> Tensor:
        """The kept columns of results, scaled where the cut put a factor into the weights that make them."""
        kept = self._plan.keep.get(target.layer, {}).get(target.out_dim)
        rows = (rows if kept is None else rows[:, list(kept)]).clone()
        for first, last, by in self._plan.folds.get(target.layer, ()):
            rows[:, first:last] *= by
        return rows


def _total(layer: Layer, out: Tensor) -> int:
    """Rows of a layer's result."""
    return out.numel() // out.shape[1 if layer.conv else -1]


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
    lacks = (rows.other.get() - out_rows(other, rows.at, found.track.conv)) * found.by
    rows.other.drop()
    if target.scale is None:
        return lacks
    weak = target.scale.abs() < 1e-3 * target.scale.abs().max()
    return torch.where(weak, 0.0, lacks / torch.where(weak, 1.0, target.scale))
