"""Masks of elements that a cut model does not have, carried through every op of the original.

Independent of the algebra: a movement op carries a mask by running on it, so a wrong movement rule
cannot agree with itself; a compute op by the letters of its notation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.errors import CheckFailed
from surgeon.fused import FUSED, RULE
from surgeon.graph import Node, Value
from surgeon.letters import Letters, laid
from surgeon.masks import Held
from surgeon.rules import Rule, Term, lookup, parse, spread
from surgeon.trace.called import Called


class Masks:
    """True where an element is removed; what is not kept is zero after every op."""

    def __init__(self) -> None:
        self._held = Held()
        self._told: Any = WeakIdKeyDictionary()  # positions among the kept elements alone: op

    def begin(self, tensor: Tensor, keep: Mapping[int, Sequence[int]]) -> None:
        """Mask a state tensor as the plan says: what is not kept is zero from now on."""
        mask = torch.zeros((1,) * tensor.dim(), dtype=torch.bool, device=tensor.device)
        for d, kept in keep.items():
            gone = torch.ones(tensor.shape[d], dtype=torch.bool, device=tensor.device)
            gone[list(kept)] = False
            mask = mask | laid(gone, d, tensor.dim())
        self._held.meet((tensor,))
        self._held.set(tensor, mask)
        if keep and _measures(tensor):
            tensor.detach().masked_fill_(mask, 0)

    def of(self, tensor: Tensor) -> Tensor:
        """The mask of a tensor; one that was never seen has nothing removed."""
        mask = self._held.get(tensor)
        if mask is None:
            return torch.zeros((), dtype=torch.bool, device=tensor.device).expand(tensor.shape)
        return mask

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op on masked tensors and give its outputs their masks."""
        given = _flat((args, kwargs))
        self._held.meet(given)
        self.refuse_told(given)
        if func._schema.name.startswith("aten::as_strided"):  # reads the storage itself
            self._held.lay_where_masked(args[0])
        if all(self._held.get(t) is None for t in given):
            out = func(*args, **kwargs)
            self._held.meet(_flat((out,)))
            return out
        rule = RULE if func is FUSED else lookup(str(func))
        if rule is None:
            raise CheckFailed(f"removed channels reach {func}, which has no channel rule")
        if rule.move is not None:
            return self._move(rule, func, args, kwargs)
        return self._compute(rule, func, args, kwargs)

    def refuse_told(self, read: Sequence[Tensor]) -> None:
        """Positions along what was cut are other numbers in the cut model: CheckFailed where one is read."""
        for tensor in read if len(self._told) else ():
            if tensor in self._told:
                raise CheckFailed(
                    f"positions that {self._told[tensor]} tells lie along what was cut"
                )

    def call(self, called: Called) -> Any:
        """Run a module that has a rule on masked tensors; where it mixes, on the kept elements."""
        rule, operands = called.what.rule, called.operands()
        notation = parse(rule.text)
        terms = list(enumerate(notation.inputs))
        given = [(i, t, operands[i]) for i, t in terms]
        letters = Letters(rule.op, called.what.sizes)
        for _, t, tensor in given:
            letters.read(t, self.of(tensor))
        letters.settle()
        if letters.mixed(given):
            small = called.run(_shrunk(operands, given, letters), letters.kept())
            placed = zip(notation.outputs, _flat((small,)), strict=False)
            new = iter([_placed(tensor, t, letters) for t, tensor in placed])
            out = tree_map_only(Tensor, lambda _: next(new), small)
        else:
            out = called.run(operands)
        for t, tensor in zip(notation.outputs, _flat((out,)), strict=False):
            mask = letters.write(t, tensor.shape, tensor.device)
            self._settle(tensor, mask, written=True)  # a module may give back what it wrote to
        return out

    def _move(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if rule.op == "aten.index_put":
            return self._put(func, args, kwargs)
        before = tree_map_only(Tensor, self.of, args[0])
        out = func(*args, **kwargs)
        if rule.family == "factory":
            self._held.meet(_flat((out,)))
            return out
        masks = _moved(func, before, args[1:])
        for tensor, mask in zip(_flat((out,)), _flat((masks,)), strict=True):
            if _in_place(func) and func._schema.name not in _RESHAPES:
                self._held.write(tensor, mask)
            else:
                self._held.set(tensor, mask)
        return out

    def _put(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Values written to positions: what is gone of all that is written is gone everywhere along
        these positions, as the rest of the target is that of other writes, or a constant."""
        own, indices, theirs = self.of(args[0]), args[1], self.of(args[2])
        out = func(*args, **kwargs)
        mask = own.clone()
        if bool(theirs.any()):
            over = _covered(indices)
            clear = torch.zeros_like(mask)
            put = torch.ops.aten.index_put
            written = put(clear, indices, torch.ones_like(theirs))
            gone = put(clear, indices, theirs) | ~written
            mask |= gone.all(dim=over, keepdim=True) & written.any(dim=over, keepdim=True)
        self._settle(out, mask, written=_in_place(func))
        return out

    def _compute(self, rule: Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert rule.choose is not None
        form = rule.choose(_node(func, args, kwargs))
        notation = parse(form.text)
        places = form.at if form.at is not None else tuple(range(len(args)))
        operands = [
            (i, terms, args[i])
            for i, terms in zip(places, notation.inputs, strict=False)
            if i < len(args) and isinstance(args[i], Tensor)
        ]
        letters = Letters(str(func), form.sizes)
        for _, terms, tensor in operands:
            letters.read(terms, self.of(tensor))
        letters.settle()
        letters.rank(form.ranked)
        if letters.mixed(operands):
            out = _on_kept(func, args, kwargs, operands, (letters, notation.outputs))
        else:
            out = func(*args, **kwargs)
        if letters.lost(form.told):
            self._told[out[1]] = str(func)
        outs = (out,) if isinstance(out, Tensor) else out
        for terms, tensor in zip(notation.outputs, outs, strict=False):
            if tensor is not None:  # a gradient that was not asked for
                mask = letters.write(terms, tensor.shape, tensor.device)
                self._settle(tensor, mask, written=_in_place(func))
        return out

    def _settle(self, tensor: Tensor, mask: Tensor, *, written: bool) -> None:
        """Give an output its mask; one written in place changes the mask of all that it is a view of."""
        if written:
            self._held.write(tensor, mask)
        else:
            self._held.set(tensor, mask)
        own = self._held.get(tensor)
        if own is not None and _measures(tensor):
            with _unsafe_preserve_version_counter(
                tensor
            ):  # a gradient may read what the op kept of it
                tensor.masked_fill_(own, 0)


def _on_kept(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    operands: list[tuple[int, tuple[Term, ...], Tensor]],
    said: tuple[Letters, tuple[tuple[Term, ...], ...]],
) -> Any:
    """Run a mixing op on the kept elements, and put its outputs back in their places."""
    letters, outputs = said
    small = _shrunk(args, operands, letters)
    _resized(str(func), small, letters)
    out = func(*small, **kwargs)
    if _in_place(func):
        return args[0].copy_(_placed(out, outputs[0], letters))
    if isinstance(out, Tensor):
        return _placed(out, outputs[0], letters)
    given = zip(out, outputs, strict=False)
    return tuple(None if t is None else _placed(t, terms, letters) for t, terms in given)


def _shrunk(
    args: Sequence[Any],
    operands: list[tuple[int, tuple[Term, ...], Tensor]],
    letters: Letters,
) -> list[Any]:
    """The arguments with the kept elements of their operands alone."""
    small = list(args)
    for i, terms, tensor in operands:
        for d, term in enumerate(spread(terms, tensor.dim())):
            along = letters.along(term, tensor.device)
            if along is not None and len(along) == small[i].shape[d]:
                small[i] = small[i].index_select(d, torch.nonzero(~along).flatten())
    return small


def _resized(op: str, args: list[Any], letters: Letters) -> None:
    """Size arguments of the ops that have them beside their tensors."""
    back = "_backward" in op  # the gradient stands before x
    if "layer_norm" in op or "rms_norm" in op:
        args[1 + back] = list(args[0].shape[-len(args[1 + back]) :])
    if "native_group_norm" in op:
        first = 5 if back else 3
        args[first : first + 2] = args[0].shape[:2]
        args[first + 3] = int((~letters.gone["g"]).sum())


def _placed(tensor: Tensor, terms: tuple[Term, ...], letters: Letters) -> Tensor:
    for d, term in enumerate(spread(terms, tensor.dim())):
        along = letters.along(term, tensor.device)
        if along is None or not bool(along.any()) or int((~along).sum()) != tensor.shape[d]:
            continue
        shape = list(tensor.shape)
        shape[d] = len(along)
        full = tensor.new_zeros(shape)
        tensor = full.index_copy_(d, torch.nonzero(~along).flatten(), tensor)
    return tensor


def _moved(func: Any, mask: Any, rest: tuple[Any, ...]) -> Any:
    """The op run on a mask; what it adds by itself is removed only where all beside it is."""
    special = _SPECIAL.get(func._schema.name)
    if special:
        return special(mask, *rest)
    if _in_place(func):  # masks are values
        mask = torch.ops.aten.alias(mask) if func._schema.name in _RESHAPES else mask.clone()
    return func(mask, *rest)


# in place, but of the tensor alone: nothing is written to its memory
_RESHAPES = {
    f"aten::{n}_" for n in "t transpose swapaxes swapdims squeeze unsqueeze as_strided set".split()
}


def _seen_as(mask: Tensor, shape: Sequence[int], *_: Any) -> Tensor:
    """A mask that is broadcast has not always the strides for a view."""
    return mask.reshape(shape)


def _joined(masks: Sequence[Tensor], dim: int = 0) -> Tensor:
    """cat, along nothing but the dimension that it is along: elsewhere masks mostly stay as they are."""
    if len({m.dim() for m in masks}) > 1:
        return torch.cat(list(masks), dim)
    rank = masks[0].dim()
    full = [max(m.shape[d] for m in masks) for d in range(rank)]
    full[dim % rank] = -1
    flat = [d for d in range(rank) if d != dim % rank and all(m.stride(d) == 0 for m in masks)]
    for d in flat:
        masks = [m.narrow(d, 0, min(m.shape[d], 1)) for m in masks]
    return torch.cat(list(masks), dim).expand(full)


def _padded(mask: Tensor, pad: Sequence[int], *_: Any) -> Tensor:
    for k in range(len(pad) // 2):
        d = mask.dim() - 1 - k
        before, after = pad[2 * k], pad[2 * k + 1]
        size = mask.shape[d]
        mask = mask.narrow(d, max(-before, 0), size - max(-before, 0) - max(-after, 0))
        whole = mask.all(dim=d, keepdim=True)
        ends = [whole.expand(*_with(mask.shape, d, max(n, 0))) for n in (before, after)]
        mask = _joined([ends[0], mask, ends[1]], d)
    return mask


def _with(shape: Sequence[int], d: int, size: int) -> list[int]:
    return [size if k == d else n for k, n in enumerate(shape)]


def _same(mask: Tensor, *_: Any) -> Tensor:
    """What is set to zero is no less gone than it was."""
    return mask


def _complex(mask: Tensor) -> Tensor:
    return mask.all(dim=-1)


def _real(mask: Tensor) -> Tensor:
    return mask[..., None].expand(*mask.shape, 2)


def _gated(mask: Tensor, dim: int = -1) -> Tensor:
    first, second = mask.chunk(2, dim)
    return first | second


def _windows(mask: Tensor, *args: Any) -> Tensor:
    """im2col keeps channels whole: a window of a channel that is gone is gone."""
    gone = mask.all(dim=(-2, -1), keepdim=True).expand(mask.shape)
    ones = torch.ops.aten.im2col(torch.ones_like(mask, dtype=torch.float32), *args)
    rows = ones.shape[-2] // mask.shape[-3]
    return gone[..., 0, 0].repeat_interleave(rows, -1)[..., None].expand(ones.shape).clone()


def _packed(mask: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """The second output counts sequences: nothing of it is ever removed."""
    data, counts = torch.ops.aten._pack_padded_sequence(mask, *args)
    return data, torch.zeros_like(counts, dtype=torch.bool)


def _on_diagonal(mask: Tensor, offset: int = 0, a: int = -2, b: int = -1) -> Tensor:
    """diag_embed: a row, or a column, whose one number is gone is gone; beside the middle only all are."""
    if offset:
        size = mask.shape[-1] + abs(offset)
        mask = mask.all(dim=-1, keepdim=True).expand(*mask.shape[:-1], size)
    return (mask[..., :, None] | mask[..., None, :]).movedim((-2, -1), (a, b))


def _folded(mask: Tensor, size: Sequence[int], kernel: Sequence[int], *_: Any) -> Tensor:
    """col2im adds up the windows of a channel: it is gone where all of them are."""
    gone = mask.unflatten(-2, (-1, kernel[0] * kernel[1])).all(dim=(-2, -1))
    return gone[..., None, None].expand(*gone.shape, *size).clone()


_SPECIAL = {
    "aten::constant_pad_nd": _padded,
    "aten::pad": _padded,
    "aten::diag_embed": _on_diagonal,
    "aten::glu": _gated,
    "aten::im2col": _windows,
    "aten::_pack_padded_sequence": _packed,
    "aten::view_as_complex": _complex,
    "aten::view_as_real": _real,
    "aten::tril": _same,
    "aten::triu": _same,
    "aten::tril_": _same,
    "aten::triu_": _same,
    "aten::view": _seen_as,
    "aten::_unsafe_view": _seen_as,
    "aten::_reshape_alias": _seen_as,
    "aten::cat": _joined,
    "aten::concat": _joined,
    "aten::col2im": _folded,
}


def _measures(tensor: Tensor) -> bool:
    """Whether its elements are numbers that a zero silences; integers are indices."""
    return tensor.is_floating_point() or tensor.is_complex()


def _covered(indices: Sequence[Tensor | None]) -> list[int]:
    """The dimensions that indices read; a mask reads as many as it has."""
    over: list[int] = []
    at = 0
    for index in indices:
        rank = 1 if index is None or index.dtype not in (torch.bool, torch.uint8) else index.dim()
        over += [] if index is None else range(at, at + rank)
        at += rank
    return over


def _in_place(func: Any) -> bool:
    return func._schema.name.endswith("_") and not func._schema.name.endswith("__")


def _flat(args: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, args)
    return found


def _node(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
    """The call as rules see it: values in place of tensors."""

    def value(t: Tensor) -> Value:
        return Value(0, tuple(t.shape), str(t.dtype), stride=t.stride())

    count = len(func._schema.returns)
    noted = tree_map_only(Tensor, value, args)
    return Node(0, str(func), func, tuple(noted), kwargs, (None,) * count, "", "?")
