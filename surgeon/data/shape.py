"""Which part of what a loader gives is the network's call, and which are labels: read off the example input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

Pair = tuple[Inputs, Tensor | None]

_LABELS = ("labels", "label")


def paired(given: Any, like: Inputs, name: str) -> Pair:
    """Inputs and labels: x, (x,), (x, y), (a, b, y), ((a, b), y), {'a': a, 'labels': y} or ({'a': a}, y).

    What fits the example as a whole has no labels. BadInput where nothing fits.
    """
    for inputs, labels in _readings(given, like):
        if labels is not None and not (isinstance(labels, Tensor) and labels.dim()):
            continue
        found = _call(inputs, like)
        if found is not None:
            return found, labels
    raise BadInput(
        f"{name} gives {_described(given)}; the network takes "
        f"{', '.join(f'{n} {list(t.shape)}' for n, t in zip(like.names, like.tensors, strict=True))}",
        "give tensors with one row an example: the inputs, or (inputs, labels)",
    )


def _readings(given: Any, like: Inputs) -> list[tuple[Any, Any]]:
    if isinstance(given, Mapping):
        key = next((k for k in _LABELS if k in given and k not in like.kwargs), None)
        rest = {k: v for k, v in given.items() if k != key}
        return [(rest, None if key is None else given[key])]
    if not isinstance(given, list | tuple):
        return [(given, None)]
    whole = [(given, None)]
    if len(given) == 2:
        whole.append((given[0], given[1]))
    return whole if not given else [*whole, (tuple(given[:-1]), given[-1])]


def _call(given: Any, like: Inputs) -> Inputs | None:
    try:
        inputs = Inputs.of(given)
    except BadInput:
        return None
    if like.kwargs and set(inputs.kwargs) > set(like.kwargs):
        inputs = Inputs(inputs.args, {n: inputs.kwargs[n] for n in like.kwargs})
    tensors, wanted = inputs.tensors, like.tensors
    if sorted(inputs.names) != sorted(like.names) or not tensors:
        return None
    wanted = dict(zip(like.names, wanted, strict=True))
    pairs = [(t, wanted[n]) for n, t in zip(inputs.names, tensors, strict=True)]
    if any(t.dim() != w.dim() or not t.dim() for t, w in pairs) or not inputs.batch:
        return None
    if any(w.is_floating_point() and not t.is_floating_point() for t, w in pairs):
        return None
    kinds = iter(pairs)
    return inputs.map(lambda t: t.to(next(kinds)[1].dtype))


def _described(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"a tensor {list(given.shape)} of {str(given.dtype)[6:]}"
    if isinstance(given, Mapping):
        inside = ", ".join(f"{k}: {_described(v)}" for k, v in list(given.items())[:6])
        return f"a mapping ({inside})"
    if isinstance(given, list | tuple):
        inside = ", ".join(_described(v) for v in given[:6])
        return f"a {type(given).__name__} of {len(given)} ({inside})"
    return f"{type(given).__name__}"
