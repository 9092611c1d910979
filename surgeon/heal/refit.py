"""Compensation: every layer behind a cut is fitted anew to what the dense network gave there, in order of the forward.

The dense network's results are kept at some rows; then the slim one runs once on all examples, and each
layer, before it runs, gets the weights that bring its result closest to the dense one, given what the
layers before it, fitted already, hand over. Where its result is added to another value, it also makes up for what that
value lacks. No layer is added, and no label is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surgeon.heal.layers import Layer, out_rows
from surgeon.heal.ridge import Moments, fit
from surgeon.heal.running import running
from surgeon.heal.watch import Sum, Track, Watch
from surgeon.plan import Plan
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import named_state

ROWS = 16384  # of each layer's results, over all examples
_CHUNK = 4096  # rows whose data are held at a time
_HELD = 5  # one example in five chooses the strength


@dataclass(frozen=True)
class Healed:
    """What was fitted: (layer, relative error of its result before, after), in order; and what was left."""

    layers: tuple[tuple[str, float, float], ...]
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class _Target:
    """The dense network's results of one layer at rows; `lacks`: of the other value of its sum."""

    layer: str
    out_dim: int
    each: int  # rows of an example
    at: Tensor  # [examples, rows taken of each]
    parts: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)
    mean: str | None = None  # the running mean that is taken off its result
    sum: Sum | None = None

    def here(self, first: int, count: int) -> Tensor:
        """Positions in a batch that holds these examples."""
        start = torch.arange(count)[:, None] * self.each
        return (start + self.at[first : first + count]).flatten()


def refit(
    model: nn.Module, slim: nn.Module, plan: Plan, inputs: Inputs, seed: int = 0, batch: int = 64
) -> Healed:
    """Fit `slim` to `model` in place, on examples along dim 0 of `inputs`."""
    few = inputs.map(lambda t: t[:2])
    ours, sums = _survey(slim, few)
    if _survey(model, few)[0] != ours:
        return Healed(
            (), ("the slim network runs other ops than the original: nothing was fitted",)
        )
    dense = _Dense(model, plan, inputs.batch, seed)
    dense.run(inputs, batch)
    healer = _Healer(slim, plan, dense.targets, sums)
    with running(slim), Watch(slim, before=healer.before, made=healer.made):
        inputs.run(slim)
    return Healed(tuple(healer.done))


def _survey(model: nn.Module, inputs: Inputs) -> tuple[list[str], dict[int, Sum]]:
    """The ops of a run in order, and the sum that each layer's result goes to."""
    sums: dict[int, Sum] = {}

    def summed(found: Sum) -> None:
        sums.setdefault(found.track.layer, found)

    watch = Watch(model, summed=summed)
    with running(model), watch:
        inputs.run(model)
    return watch.ops, sums


class _Dense:
    """Runs the dense network in batches and keeps its layers' results at rows."""

    def __init__(self, model: nn.Module, plan: Plan, examples: int, seed: int) -> None:
        self.model, self.plan, self.examples = model, plan, examples
        self.generator = torch.Generator().manual_seed(seed)
        self.targets: dict[int, _Target] = {}
        self.first = self.count = 0

    def run(self, inputs: Inputs, batch: int) -> None:
        calls: Counter[str] = Counter()
        for first in range(0, self.examples, batch):
            self.first, self.count = first, min(batch, self.examples - first)
            part = inputs.map(lambda t, a=first, n=self.count: t[a : a + n])
            with (
                running(self.model),
                Watch(self.model, after=self._after, summed=self._summed, normed=self._normed),
            ):
                part.run(self.model)
        calls.update(t.layer for t in self.targets.values())
        self.targets = {k: t for k, t in self.targets.items() if calls[t.layer] == 1}

    def _after(self, number: int, layer: Layer, out: Tensor) -> None:
        total = out.numel() // out.shape[1 if layer.conv else -1]
        if total % self.count:
            return
        if number not in self.targets:
            each = total // self.count
            taken = min(each, -(-ROWS // self.examples))
            at = torch.rand(self.examples, each, generator=self.generator).topk(taken).indices
            self.targets[number] = _Target(layer.name, layer.out_dim, each, at)
        target = self.targets[number]
        rows = out_rows(out, target.here(self.first, self.count), bool(layer.conv))
        target.parts.append(self._kept(layer.name, layer.out_dim, rows))
        if layer.bias is not None:
            kept = self._kept(layer.name, layer.out_dim, layer.bias[None])
            target.parts[-1] = target.parts[-1] - kept

    def _summed(self, found: Sum) -> None:
        target = self.targets.get(found.track.layer)
        if target is None or found.other.shape[0] % self.count:
            return
        rows = out_rows(found.other, target.here(self.first, self.count), found.track.conv)
        target.others.append(self._kept(target.layer, target.out_dim, rows))
        target.sum = found

    def _normed(self, track: Track) -> None:
        if track.layer in self.targets:
            self.targets[track.layer].mean = track.mean

    def _kept(self, name: str, dim: int, rows: Tensor) -> Tensor:
        """The kept columns of results, scaled where the cut put a factor into the weights that make them."""
        kept = self.plan.keep.get(name, {}).get(dim)
        rows = (rows if kept is None else rows[:, list(kept)]).clone()
        for first, last, by in self.plan.folds.get(name, ()):
            rows[:, first:last] *= by
        return rows


class _Healer:
    """Fits each layer of the slim network before it runs."""

    def __init__(
        self, slim: nn.Module, plan: Plan, targets: dict[int, _Target], sums: dict[int, Sum]
    ) -> None:
        self.state, self.plan, self.targets = named_state(slim), plan, targets
        self.sums = {n: s for n, s in sums.items() if n in targets and targets[n].sum}
        self.needed = {s.made.number for s in self.sums.values()}
        self.values: dict[int, Tensor] = {}
        self.done: list[tuple[str, float, float]] = []

    def made(self, number: int, value: Tensor) -> None:
        if number in self.needed:
            self.values[number] = value

    def before(self, number: int, layer: Layer) -> None:
        target = self.targets.pop(number, None)
        if target is None:
            return
        want = torch.cat(target.parts)
        at = target.here(0, len(target.at))
        free = layer.bias_name is not None or target.mean is not None
        if number in self.sums and target.sum is not None:
            made = self.sums[number].made
            other = made.of(self.values[made.number])
            want = want + _lacking(target, other, at, self._scale(layer, target.sum))
        want = want.view(len(at), layer.groups, -1)
        seen, held = self._moments(layer, target, at, want)
        found = fit(seen, held, layer.matrix, free)
        if found is None:
            return
        layer.put(found.weight)
        self._shift(layer, target.mean, found.shift.flatten())
        self.done.append((layer.name, found.before, found.after))

    def _scale(self, layer: Layer, found: Sum) -> Tensor | None:
        kept = self.plan.keep.get(layer.name, {}).get(layer.out_dim)
        scale = found.track.scale
        return scale if scale is None or kept is None else scale[list(kept)]

    def _moments(
        self, layer: Layer, target: _Target, at: Tensor, want: Tensor
    ) -> tuple[Moments, Moments]:
        seen, held = Moments(), Moments()
        example = torch.arange(len(at)) // target.at.shape[1]
        for moments, chosen in ((seen, example % _HELD > 0), (held, example % _HELD == 0)):
            rows = chosen.nonzero()[:, 0]
            for part in rows.split(_CHUNK):
                moments.add(layer.data(at[part]), want[part])
        return seen, held

    def _shift(self, layer: Layer, name: str | None, shift: Tensor) -> None:
        """Into the layer's own bias, or off the running mean of the norm behind it."""
        if layer.bias is not None:
            layer.bias.add_(shift.to(layer.bias.dtype))
        elif name is not None:
            mean = self.state[name]
            mean.sub_(shift.to(mean.dtype))


def _lacking(target: _Target, other: Tensor, at: Tensor, scale: Tensor | None) -> Tensor:
    """What the other value of the sum lacks, as the layer before its scale must give it."""
    assert target.sum is not None
    lacks = torch.cat(target.others) - out_rows(other, at, target.sum.track.conv)
    if scale is None:
        return lacks
    weak = scale.abs() < 1e-3 * scale.abs().max()
    return torch.where(weak, 0.0, lacks / torch.where(weak, 1.0, scale))
