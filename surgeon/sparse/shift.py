"""What of a network changes when constant channels go, carried op by op until a bias takes it.

A shift is the original's value less the slim one's, element by element, in float64; NaN where it depends
on the input. A removed channel's shift is its own constant. What reaches the channels that stay must be
taken by a parameter that is added there (a bias, a batch norm's shift), or the channels it came from stay.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgeon.couple import Coupling
from surgeon.distinct import distinct
from surgeon.graph import Node, Value
from surgeon.rules import lookup
from surgeon.sparse.bias import bias_of, ends
from surgeon.sparse.factors import Part, read_by, times
from surgeon.sparse.facts import (
    Facts,
    Product,
    content,
    is_made,
    is_norm,
    norm_factor,
    packet_of,
    product_of,
    run,
)
from surgeon.sparse.touch import Notes, touched

Mask = NDArray[np.bool_]
_SUMS = ("aten.add", "aten.sub")
_SAME = 1e-12  # relative: sums of the same constants in another order
# f(x + s) = f(x) + f(s)
_LINEAR = {
    f"aten.{x}"
    for x in """alias clone contiguous detach lift_fresh _to_copy neg mean sum div avg_pool1d avg_pool2d
    avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d dropout mul copy""".split()
}


@dataclass(frozen=True)
class Origin:
    """Classes whose constants a shift is made of, and what stood in its way at the first bias."""

    atoms: frozenset[int]
    why: str


@dataclass
class Shifts:
    """One walk through the graph with some classes removed.

    `deltas`: state name -> what is added to it, f64 of its own shape, with what goes still in it.
    `blamed`: classes that cannot go -> why.
    """

    coupling: Coupling
    notes: Notes
    facts: Facts
    removed: Mask
    deltas: dict[Value, Tensor] = field(default_factory=dict)
    blamed: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shifts: dict[Value, Tensor] = {}
        self._origins: dict[Value, frozenset[Origin]] = {}
        self._gone: dict[Value, Tensor | None] = {}
        self._weights: set[Value] = set()  # values that the inputs have no part in
        self._reads = Counter(v for n in self.coupling.graph.nodes for v in n.inputs)

    def gone(self, value: Value) -> Tensor | None:
        """Bool mask of the elements of a value that go; None where all stay."""
        if value not in self._gone:
            self._gone[value] = self._mask(value)
        return self._gone[value]

    def _mask(self, value: Value) -> Tensor | None:
        mask = torch.zeros((1,) * len(value.shape), dtype=torch.bool)
        for d, dim in enumerate(self.coupling.dims.get(value, ())):
            if self.coupling.kept_size(dim, self.removed) < value.shape[d]:
                along = torch.ones(value.shape[d], dtype=torch.bool)
                along[torch.as_tensor(self.coupling.kept(dim, self.removed))] = False
                mask = mask | along.reshape([-1 if k == d else 1 for k in range(len(value.shape))])
        return mask.expand(value.shape) if bool(mask.any()) else None

    def of(self, value: Value) -> Tensor:
        """The shift of a value; its constants where it is removed."""
        if value not in self._shifts:
            shift = torch.zeros(value.shape, dtype=torch.float64)
            self._shifts[value] = self._with_gone(value, shift)
        return self._shifts[value]

    def _with_gone(self, value: Value, shift: Tensor) -> Tensor:
        mask = self.gone(value)
        if mask is None:
            return shift
        number, shift = self.facts.number(value), _owned(shift)
        if number.is_floating_point():
            shift[mask] = torch.where(self.facts.open(value) > 0, torch.nan, number)[mask]
        elif number.is_complex():
            shift[mask] = torch.nan  # not followed
        return shift

    def forget(self, value: Value) -> None:
        """Drop a value that nothing reads any more."""
        for table in (self._shifts, self._origins, self._gone):
            table.pop(value, None)

    def carry(self, node: Node) -> list[Tensor]:
        """The shifts of a node's results, before its facts are taken: an op in place changes its operand."""
        shifted = [v for v in dict.fromkeys(node.inputs) if self._is_shifted(v)]
        moved = lookup(node.op)
        if moved is not None and moved.move is not None and not is_made(node):
            return self._moved(node)
        if not shifted or is_made(node):
            return [torch.zeros(v.shape if v else (), dtype=torch.float64) for v in node.outputs]
        return self._computed(node)

    def settle(self, node: Node, outs: list[Tensor]) -> None:
        """Note the shifts of a node whose facts are known by now."""
        alone = bool(node.inputs) and all(self._is_weight(v) for v in node.inputs)
        for value, out in zip(node.outputs, outs, strict=False):
            if value is not None:
                if alone:
                    self._weights.add(value)
                self._settle(node, value, out)

    def _stored(self, value: Value) -> bool:
        """Whether it is a parameter or a buffer: what a plain attribute took up, no state dict would hold."""
        return bool(value.state) and self.coupling.graph.loose.isdisjoint(value.state)

    def _is_weight(self, value: Value) -> bool:
        return bool(value.state) or value in self._weights

    def _is_shifted(self, value: Value) -> bool:
        return bool((self.of(value) != 0).any())  # NaN differs from zero

    def _moved(self, node: Node) -> list[Tensor]:
        moving = content(node)
        out = run(node, lambda v: self.of(v) if v in moving else self.facts.number(v), fill=0.0)
        shapes = [v.shape if v else () for v in node.outputs]
        real = out is not None and "glu" not in node.op and not any(o.is_complex() for o in out)
        if out is not None and real and [tuple(o.shape) for o in out] == shapes:
            return out
        return self._unknown(node)

    def _computed(self, node: Node) -> list[Tensor]:
        product, packet = product_of(node), packet_of(node)
        outs = [torch.zeros(v.shape if v else (), dtype=torch.float64) for v in node.outputs]
        if any(self.facts.number(v).is_complex() for v in node.inputs):
            outs = self._unknown(node)
        elif product is not None:
            outs[0] = self._of_product(node, product)
        elif is_norm(node):
            outs[0] = self._of_norm(node)
        elif packet in _SUMS and len(node.args) == 2:
            outs[0] = self._of_sum(node)
        elif packet in _LINEAR and not self._is_shifted_but_first(node):
            found = self._of_linear(node)
            outs = self._unknown(node) if found is None else found
        else:
            outs = self._unknown(node)
        return outs

    def _is_shifted_but_first(self, node: Node) -> bool:
        others = [v for v in node.inputs if v is not node.args[0]]
        opened = any(bool(self.facts.open(v).any()) for v in others)
        return opened or any(self._is_shifted(v) for v in others)

    def _unknown(self, node: Node) -> list[Tensor]:
        """NaN in whatever depends on a shift: no way to say what it becomes."""
        marks = touched(node, self.notes, lambda v: self.of(v) != 0)
        return [torch.where(m, torch.nan, 0.0).double() for m in marks]

    def _of_sum(self, node: Node) -> Tensor:
        out = node.outputs[0]
        assert out is not None
        a, b = (
            self.of(x) if isinstance(x, Value) else torch.zeros((), dtype=torch.float64)
            for x in node.args
        )
        factor = node.kwargs.get("alpha", 1) * (-1 if packet_of(node) == "aten.sub" else 1)
        return (a + factor * b).expand(out.shape).clone()

    def _of_linear(self, node: Node) -> list[Tensor] | None:
        first = node.args[0]
        if not isinstance(first, Value):
            return None
        if packet_of(node) == "aten.copy":
            return None
        return run(_plain(node), lambda v: self.of(v) if v is first else self.facts.number(v))

    def _of_norm(self, node: Node) -> Tensor:
        """Scaled as the input is, nothing added."""
        shift = self.of(node.args[0])
        by = norm_factor(node, self.facts).reshape(1, -1, *[1] * (shift.dim() - 2))
        return torch.where(by == 0, 0.0, shift * by)

    def _of_product(self, node: Node, product: Product) -> Tensor:
        """Of (a, b) and their shifts (s, t): a * t + s * (b - t)."""
        a, b = node.args[product.a], node.args[product.b]
        s, t = self.of(a), self.of(b)
        left = Part.of(self.facts, a)
        stays = Part.of(self.facts, b)
        stays = Part(stays.number - t.nan_to_num(), (stays.open.bool() & ~t.isnan()).float())
        total = times(node, product, left, Part.shift(t)) + times(
            node, product, Part.shift(s), stays
        )
        bias = node.arg(product.bias) if product.bias is not None else None
        if bias is not None and packet_of(node) in ("aten.addmm", "aten.baddbmm", "aten.addmv"):
            total = total + torch.where(self._kept(bias), self.of(bias), 0.0)
        return total

    def _kept(self, value: Value) -> Tensor:
        mask = self.gone(value)
        return torch.ones(value.shape, dtype=torch.bool) if mask is None else ~mask

    def _settle(self, node: Node, value: Value, out: Tensor) -> None:
        """Let a bias take what it can, blame for what no bias ever will, then note the result."""
        kept = self._kept(value)
        if bool((torch.where(kept, out, 0.0) != 0).any()):
            out = _owned(out)
            self._take(node, value, out, kept)
            lost = out.isnan() & kept
            if bool(lost.any()):
                self._blame(node, lost)
                out[lost] = 0
            if bool((out[kept] != 0).any()):
                self._origins[value] = self._come_from(node)
        if not self.facts.number(value).is_floating_point():
            if bool((out != 0).any() and kept.any()) and bool(
                (torch.where(kept, out, 0.0) != 0).any()
            ):
                self._blame(node, (out != 0) & kept)
            out = torch.zeros_like(out)
        new = self._with_gone(value, out)
        known = self._shifts.get(value)
        if known is not None and known.shape == new.shape and known is not new:
            known.copy_(new)  # written in place: its views see it
        else:
            self._shifts[value] = new

    def _take(self, node: Node, value: Value, out: Tensor, kept: Tensor) -> None:
        """Give each bias the shift of its elements, where it is one number; that is then gone from `out`."""
        bias = bias_of(node, self.facts) if value is node.outputs[0] else None
        if bias is None or self._reads[bias.value] > 1 or not self._stored(bias.value):
            return
        low, high = ends(out, kept, bias.shape)
        scale = float(torch.where(kept & ~out.isnan(), out, 0.0).abs().max()) or 1.0
        even = (high - low <= _SAME * scale) & low.isfinite() & high.isfinite()
        if bias.by is not None:
            even &= (bias.by != 0).reshape(bias.shape)
        delta = torch.where(even, (low + high) / 2, 0.0)
        out[even.expand(out.shape) & kept] = 0
        if bias.by is not None:
            delta = torch.where(even, delta / bias.by.reshape(bias.shape), 0.0)
        self.deltas[bias.value] = delta.reshape(bias.value.shape)

    def _come_from(self, node: Node) -> frozenset[Origin]:
        """What the shift of the channels that stay is made of."""
        found = {o for v in node.inputs for o in self._origins.get(v, ())}
        if found and product_of(node) is None:  # element by element, or channel by channel
            return frozenset(found)
        for value in dict.fromkeys(node.inputs):
            mask = self.gone(value)
            if mask is None or not self._is_shifted(value) or self._is_weight(value):
                continue
            uneven = self._uneven(value) & mask
            shifted = (self.of(value) != 0) & mask
            why = _why_uneven(node, bool(uneven.any()))
            atoms = self._atoms(value, uneven if bool(uneven.any()) else shifted)
            if atoms:
                found.add(Origin(frozenset(atoms), why))
        return frozenset(found)

    def _uneven(self, value: Value) -> Tensor:
        """Elements of channels whose constant is not the same everywhere."""
        shift = self.of(value)
        if shift.dim() < 3:
            return torch.zeros(value.shape, dtype=torch.bool)
        dims = tuple(range(2, shift.dim()))
        apart = shift.amax(dims, keepdim=True) - shift.amin(dims, keepdim=True)
        return (apart > _SAME * shift.nan_to_num().abs().max()).expand(value.shape)

    def _blame(self, node: Node, lost: Tensor) -> None:
        """The classes whose removal makes the `lost` elements of a result something that nothing can take."""
        guilty: dict[int, str] = {}
        product = product_of(node)
        for value in dict.fromkeys(node.inputs):
            bad = self._reading(node, product, value, lost)
            kept = self._kept(value)
            direct = bad & ~kept if product is not None or not bool((bad & kept).any()) else None
            if direct is not None and bool(direct.any()):
                why = f"it depends on the input, and {_place(node)} reads it"
                if not bool((self.of(value).isnan() & direct).any()):
                    why = f"no bias takes its constant before {packet_of(node)}, at {_place(node)}"
                guilty |= dict.fromkeys(self._atoms(value, direct), why)
            if bool((bad & kept).any()):
                for origin in self._origins.get(value, ()):
                    guilty |= dict.fromkeys(origin.atoms, origin.why)
        if not guilty:  # whatever goes here may be the reason
            why = f"what {packet_of(node)} makes of its constant is not known, at {_place(node)}"
            for value in (*node.inputs, *node.outputs):
                mask = self.gone(value) if value is not None else None
                if value is not None and mask is not None:
                    guilty |= dict.fromkeys(self._atoms(value, mask), why)
        if not guilty:
            guilty = dict.fromkeys(
                np.flatnonzero(self.removed).tolist(), f"what reaches {_place(node)} is not known"
            )
        self.blamed = {**guilty, **self.blamed}

    def _reading(self, node: Node, product: Product | None, value: Value, lost: Tensor) -> Tensor:
        """Elements of an operand with a shift that the lost elements read through a weight that is not zero."""
        shift = self.of(value)
        bad = shift.isnan() if bool(shift.isnan().any()) else shift != 0
        if self._is_weight(value):
            return torch.zeros_like(bad)
        if (
            product is None
            or not bool(bad.any())
            or value
            not in (
                node.args[product.a],
                node.args[product.b],
            )
        ):
            return bad
        return bad & (read_by(node, product, value, self.facts, lost) > 0)

    def finish(self) -> None:
        """Shifts that reached an output were taken by nothing."""
        for value in self.coupling.graph.outputs:
            if value in self._shifts and self._is_shifted(value):
                for origin in self._origins.get(value, ()):
                    self.blamed |= dict.fromkeys(origin.atoms, origin.why)
                if not self._origins.get(value):
                    every = np.flatnonzero(self.removed).tolist()
                    self.blamed |= dict.fromkeys(every, "an output would change")

    def _atoms(self, value: Value, bad: Tensor) -> set[int]:
        """Removed classes with a marked element in a value."""
        found: set[int] = set()
        for d, dim in enumerate(self.coupling.dims.get(value, ())):
            along = bad.movedim(d, 0).reshape(value.shape[d], -1).any(1)
            stays = torch.zeros(value.shape[d], dtype=torch.bool)
            stays[torch.as_tensor(self.coupling.kept(dim, self.removed))] = True
            at = torch.nonzero(along & ~stays).flatten().numpy()
            found |= classes_at(self.coupling, dim, at)
        return {a for a in found if self.removed[a]}


def classes_at(coupling: Coupling, dim: Any, at: NDArray[np.int64]) -> set[int]:
    """Classes that decide about these positions of a dimension."""
    found: set[int] = set()
    if not len(at) or not dim:
        return found
    for leaf, index in zip(dim, np.unravel_index(at, [x.size for x in dim]), strict=True):
        if leaf.ids is None:
            continue
        labels = distinct(coupling.classes.label[leaf.ids[index]])
        atoms = coupling.classes.atoms_of(np.arange(len(labels)), labels, len(labels)).indices
        found |= set(atoms.tolist())
    return found


def _plain(node: Node) -> Node:
    """An op in place as its plain form: the shift's own tensor is written to later."""
    if not node.target._schema.name.endswith("_"):
        return node
    packet = getattr(torch.ops.aten, packet_of(node).removeprefix("aten."))
    overload = getattr(packet, node.op.rsplit(".", 1)[1])
    return Node(
        node.index,
        node.op,
        overload,
        node.args,
        node.kwargs,
        node.outputs,
        node.module,
        node.source,
    )


def _owned(shift: Tensor) -> Tensor:
    """A tensor that may be written to element by element: a broadcast one is copied."""
    broadcast = any(n > 1 and s == 0 for n, s in zip(shift.shape, shift.stride(), strict=True))
    return shift.clone() if broadcast else shift


def _why_uneven(node: Node, uneven: bool) -> str:
    if uneven:
        return f"its constant is not the same at every position, as {_place(node)} reads it: a constant for each position would be needed"
    if "convolution" in node.op and any(node.args[4]):
        return f"its constant meets the zero padding of {_place(node)}: a constant for each position would be needed"
    return f"no bias behind {_place(node)} takes its constant"


def _place(node: Node) -> str:
    return node.module or "the model itself"
