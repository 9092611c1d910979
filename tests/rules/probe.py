"""What a rule says of an op, held against the op itself: run it, disturb it, run it on cut tensors.

Every tensor of a sample call is made state, so that each of its dimensions is an axis that may be
cut, and the call is coupled as a graph of its own. For each thing the rule lets go (and for random
sets of them) the real op must agree:

    kept       NaN, or another number, in what goes changes nothing in what stays, and reaches
               every index of the output that is said to go with it
    reduced    what stays is what the op gives with zeros in place of what goes
    exact      the op on the smaller tensors, with the sizes of `surgeon.cut.resize`, gives what stays
    inexact    (`!`) the op runs on the smaller tensors; its values are its own affair

A movement op moves the same random numbers, so that equality says that each is where it should be.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from surgeon.couple import Coupling, couple
from surgeon.cut.resize import resize
from surgeon.cut.sizes import Call, Numbers, Positions, Sizes
from surgeon.graph import Node, Value
from surgeon.rules import lookup
from surgeon.trace.recorder import Recorder

SETS = 3  # random sets of channels cut together, on top of each by itself


class Known(Tensor):
    """An index that is written in the code: its numbers are known when the op is coupled."""


def known(*index: int) -> Tensor:
    """An index tensor whose numbers the rule may read."""
    return torch.tensor(index).as_subclass(Known)


@dataclass(frozen=True)
class Sample:
    """One call of one op.

    `cut` says what must come out, a word a tensor argument and a mark a dimension: `1` all may go,
    `!` all may go but not exactly, `s` some may go, `.` none may. `outputs` is how many outputs the
    rule speaks for. `values` is False where the numbers are random or left over, `reaches` where the
    output does not hold what goes in, `resizes` where the op cannot be called on smaller tensors with
    these arguments, `finite` where it must be given no NaN (positions in memory). `needs` is the device that has the op.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    cut: str
    outputs: int = 9
    values: bool = True
    reaches: bool = True
    resizes: bool = True
    needs: str = "cpu"
    finite: bool = False

    def __str__(self) -> str:
        shapes = [list(t.shape) for t in self.tensors()]
        return f"{self.op}{shapes}"

    @property
    def packet(self) -> str:
        """'aten.add' for 'aten.add_.Tensor'."""
        rule = lookup(self.op)
        return rule.op if rule else self.op.rsplit(".", 1)[0]

    def tensors(self) -> list[Tensor]:
        """Tensor arguments, in order."""
        return [t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]


def target(op: str) -> Callable[..., Any]:
    """The op of 'aten.add.Tensor'."""
    namespace, packet, overload = op.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def call(op: str, args: Any, kwargs: Any) -> list[Tensor]:
    """Run an op on copies of its arguments; its outputs as a list."""
    device = "cuda" if "cudnn" in op else "cpu"
    args = tree_map_only(Numbers, lambda numbers: numbers.tensor, args)
    args, kwargs = tree_map_only(Tensor, lambda t: fresh(t).to(device), (args, kwargs))
    with torch.no_grad():
        return [t.cpu() for t in outputs_of(target(op)(*args, **kwargs))]


def fresh(tensor: Tensor) -> Tensor:
    """A copy with the same strides."""
    tensor = tensor.as_subclass(Tensor)
    small = tensor
    for d, step in enumerate(tensor.stride()):
        small = small.narrow(d, 0, min(small.shape[d], 1)) if step == 0 else small
    return small.clone().expand(tensor.shape)


def outputs_of(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


# --- coupling one call -------------------------------------------------------------------------


@dataclass(frozen=True)
class Coupled:
    """A sample as a graph that was coupled: `inputs` and `outputs` are its values, in order."""

    sample: Sample
    coupling: Coupling
    inputs: list[Value]
    outputs: list[Value]
    call: Call


def coupled(sample: Sample) -> Coupled:
    """Couple a sample by the rule of its op, or as the ops that it is made of where it has none."""
    args, kwargs = tree_map_only(Tensor, fresh, (sample.args, sample.kwargs))
    recorder = Recorder(on_meta=False)
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    for i, (tensor, own) in enumerate(zip(given, sample.tensors(), strict=True)):
        recorder.name_state(f"x{i}", tensor)
        recorder.value(tensor).constant = fresh(own) if isinstance(own, Known) else None
    inputs = [recorder.value(t) for t in given]
    noted = tree_map_only(Tensor, recorder.value, (args, kwargs))
    plain = lookup(sample.op) is None
    with torch.no_grad(), recorder if plain else nullcontext():
        outputs = [recorder.value(t) for t in outputs_of(target(sample.op)(*args, **kwargs))]
    if not plain:
        recorder.graph.nodes.append(
            Node(0, sample.op, target(sample.op), *noted, tuple(outputs), "", "?")
        )
        for value in outputs:
            value.constant = None
    nodes = tuple(recorder.graph.nodes)
    first = inputs[0] if inputs else None
    call = Call(sample.op, *noted, first, tuple(outputs), nodes)
    rule = lookup(sample.op)
    if rule is None or (rule.move is not None and rule.family != "factory"):
        values = (v for v in (*inputs, *outputs) if 0 not in v.shape)
        numbers = [v for v in values if v.dtype[0] in "fbc" and v.constant is None]
        recorder.graph.nodes += _read(numbers)
    return Coupled(sample, couple(recorder.graph), inputs, outputs, call)


def _read(values: list[Value]) -> list[Node]:
    """An op that computes with each: what is only moved, and read by nothing, stays."""
    neg = torch.ops.aten.neg.default
    made = [Value(-1 - i, v.shape, v.dtype) for i, v in enumerate(values)]
    pairs = zip(values, made, strict=True)
    return [
        Node(10**6 + i, "aten.neg.default", neg, (v,), {}, (out,), "", "?")
        for i, (v, out) in enumerate(pairs)
    ]


def may_go(c: Coupled) -> str:
    """What the rule lets go, in the words of `Sample.cut`."""
    gone = list(removals(c))
    words = []
    for value in c.inputs:
        word = ""
        for d in range(len(value.shape)):
            hits = [(goes(c, one, value, d), inexact(c, one)) for one in gone]
            goes_at = np.any([h for h, _ in hits], axis=0) if hits else np.zeros(1, bool)
            exact = not any(h.any() and mixed for h, mixed in hits)
            word += (
                "." if not goes_at.any() else "s" if not goes_at.all() else "1" if exact else "!"
            )
        words.append(word)
    return " ".join(words)


def removals(c: Coupled) -> Iterator[np.ndarray]:
    """The classes that go with one free atom, for each of them that empties no dimension."""
    classes = c.coupling.classes
    free = np.flatnonzero((classes.frozen < 0) & ~classes.derived)
    for atom in free:
        gone = c.coupling.removed(np.array([atom]))
        if not emptied(c, gone):
            yield gone


def touches(c: Coupled, gone: np.ndarray, values: list[Value]) -> bool:
    """Whether something of these values goes."""
    return any(goes(c, gone, v, d).any() for v in values for d in range(len(v.shape)))


def emptied(c: Coupled, gone: np.ndarray) -> bool:
    """Whether a dimension loses all that it has."""
    sizes = Sizes(c.coupling, gone)
    values = (*c.inputs, *c.outputs)
    return any(
        n == 0 != old for v in values for n, old in zip(sizes.shape(v), v.shape, strict=True)
    )


def goes(c: Coupled, gone: np.ndarray, value: Value, d: int) -> np.ndarray:
    """Which positions of a dimension go."""
    mask = np.ones(value.shape[d], bool)
    mask[Sizes(c.coupling, gone).kept(value, d)] = False
    return mask


def inexact(c: Coupled, gone: np.ndarray) -> bool:
    return bool((gone & (c.coupling.classes.mixed >= 0)).any())


# --- holding it against the op -----------------------------------------------------------------


def check(sample: Sample) -> None:
    """AssertionError where the rule lets go what it should not, or the op does not what its rule says."""
    c = coupled(sample)
    lets = may_go(c)
    assert lets == sample.cut, f"{sample}: the rule lets go '{lets}', not '{sample.cut}'"
    check_op(c)


def check_op(c: Coupled) -> None:
    """AssertionError where the op does not do what its rule says."""
    singles = list(removals(c))
    for gone in singles:
        check_removal(c, gone, single=True)
    rng = np.random.default_rng(0)
    for _ in range(SETS if len(singles) > 2 else 0):
        some = [one for one in singles if rng.random() < 0.4]
        gone = np.any(some, axis=0) if some else singles[0]
        if not emptied(c, gone):
            check_removal(c, gone, single=False)


def check_removal(c: Coupled, gone: np.ndarray, *, single: bool) -> None:
    """One set of classes goes: disturb it, and cut it."""
    sample = c.sample
    base = call(sample.op, sample.args, sample.kwargs)
    if not inexact(c, gone) and sample.values:
        if single and touches(c, gone, c.outputs[: sample.outputs]):
            check_kept(c, gone, base)
        base = call(sample.op, *filled(c, gone, 0))
    if sample.resizes:
        check_cut(c, gone, base)


def check_kept(c: Coupled, gone: np.ndarray, base: list[Tensor]) -> None:
    """Nothing of what goes in where it goes comes out where it stays, and it does come out where it goes."""
    sample = c.sample
    reached = [torch.zeros(t.shape, dtype=torch.bool) for t in base]
    for fill, only in fills(len(c.inputs)):
        if sample.finite and not math.isfinite(fill):
            continue
        noisy = call(sample.op, *filled(c, gone, fill, only))
        for k, (value, before, after) in enumerate(zip(c.outputs, base, noisy, strict=True)):
            reached[k] |= ~same(before, after)
            if k < sample.outputs:
                at = f"{sample}: {fill} at {where(c, gone)}"
                assert equal(kept(c, gone, value, before), kept(c, gone, value, after)), (
                    f"{at} reaches what stays"
                )
    if sample.reaches and touches(c, gone, c.inputs):
        check_reach(c, gone, reached[0])


def check_reach(c: Coupled, gone: np.ndarray, reached: Tensor) -> None:
    """Every index of the first output that goes holds something of what comes in."""
    for d in range(reached.dim()):
        rest = [k for k in range(reached.dim()) if k != d]
        hit = reached.any(dim=rest) if rest else reached
        lost = np.flatnonzero(goes(c, gone, c.outputs[0], d) & ~hit.numpy())
        assert not len(lost), (
            f"{c.sample}: {where(c, gone)} does not reach output dim {d} at {lost}"
        )


def fills(operands: int) -> list[tuple[float, int | None]]:
    """Numbers to disturb with, and in which operand (None: in all)."""
    nan = float("nan")
    everywhere = [(fill, None) for fill in (nan, float("inf"), 0.9, -0.7, 0)]
    return [*everywhere, *((fill, k) for k in range(operands) for fill in (nan, 0.9))]


def check_cut(c: Coupled, gone: np.ndarray, base: list[Tensor]) -> None:
    """The op on what stays gives the shapes that are planned, and the numbers where it is exact."""
    sizes = Sizes(c.coupling, gone)
    args, kwargs = cut_call(c, gone)
    new = call(args[0], args[1], kwargs)
    for value, before, after in list(zip(c.outputs, base, new, strict=True))[: c.sample.outputs]:
        assert tuple(after.shape) == sizes.shape(value), f"{c.sample}: without {where(c, gone)}"
        if c.sample.values and not inexact(c, gone):
            want = kept(c, gone, value, before)
            assert close(want, after), f"{c.sample}: another result without {where(c, gone)}"


def cut_call(c: Coupled, gone: np.ndarray) -> tuple[tuple[str, Any], Any]:
    """The call on the smaller tensors: (op, args), kwargs."""
    small = {
        value: kept(c, gone, value, fresh(tensor))
        for value, tensor in zip(c.inputs, c.sample.tensors(), strict=True)
    }
    new = resize(c.call, Sizes(c.coupling, gone))

    def place(arg: Any) -> Any:
        if isinstance(arg, Positions):
            return torch.tensor(arg.index)
        return small[arg] if isinstance(arg, Value) else arg

    leaves, spec = tree_flatten((new.args, new.kwargs))
    args, kwargs = tree_unflatten([place(leaf) for leaf in leaves], spec)
    return (new.op, args), kwargs


def resized(c: Coupled) -> bool:
    """Whether some removal changes an argument of the call."""
    return any(resize(c.call, Sizes(c.coupling, gone)) != c.call for gone in removals(c))


def filled(c: Coupled, gone: np.ndarray, fill: float, only: int | None = None) -> tuple[Any, Any]:
    """The arguments with `fill` in everything that goes, or in that of one operand."""
    leaves, spec = tree_flatten((c.sample.args, c.sample.kwargs))
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    for k, (i, value) in enumerate(zip(at, c.inputs, strict=True)):
        if only in (None, k):
            leaves[i] = fill_one(c, gone, value, leaves[i], fill)
    return tree_unflatten(leaves, spec)


def fill_one(c: Coupled, gone: np.ndarray, value: Value, tensor: Tensor, fill: float) -> Tensor:
    tensor = fresh(tensor)
    if 0 in tensor.stride():  # one number for a whole row: there is no part of it to disturb
        return tensor
    if tensor.dtype == torch.bool:
        fill = fill > 0
    elif not (tensor.is_floating_point() or tensor.is_complex()):
        # within the sample's own range: a position beyond it is no call of the op
        fill = round(np.clip(np.nan_to_num(fill, nan=0), int(tensor.min()), int(tensor.max())))
    for d in range(tensor.dim()):
        tensor.index_fill_(d, torch.from_numpy(np.flatnonzero(goes(c, gone, value, d))), fill)
    return tensor


def kept(c: Coupled, gone: np.ndarray, value: Value, tensor: Tensor) -> Tensor:
    """What stays of a tensor."""
    for d in range(tensor.dim()):
        index = Sizes(c.coupling, gone).kept(value, d)
        if len(index) < tensor.shape[d]:
            tensor = tensor.index_select(d, torch.from_numpy(index))
    return tensor


def where(c: Coupled, gone: np.ndarray) -> str:
    """'x0 dim 1 [3]; ...': what goes."""
    said = [
        f"x{i} dim {d} {np.flatnonzero(goes(c, gone, v, d)).tolist()}"
        for i, v in enumerate(c.inputs)
        for d in range(len(v.shape))
        if goes(c, gone, v, d).any()
    ]
    return "; ".join(said) or "nothing that comes in"


def same(a: Tensor, b: Tensor) -> Tensor:
    """Equal, or both NaN."""
    return (a == b) | ((a != a) & (b != b))


def equal(a: Tensor, b: Tensor) -> bool:
    return bool(same(a, b).all())


def close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return equal(a, b)
    tolerance = 1e-10 if a.dtype == torch.float64 else 1e-5
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
