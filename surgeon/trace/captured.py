"""The sizes that a program was captured with: which of its inputs' dimensions are fixed, which free.

A graph that was unrolled over a size, or has it as a literal, would run on another one and give too little.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from surgeon.errors import BadInput
from surgeon.trace.lift import Slot

Shape = tuple[int | None, ...]  # of one input; None is a dimension that may have any size
CAPTURED = "captured with these sizes"
ONE_EXAMPLE = "what a limit on latency, memory or size measures is one example"
_HINT = (
    "shrink it again with inputs of that size; where the cut's way is 'module', the network's own class"
    " takes other sizes: surgeon.load(path, model=Net())"
)
_HINT_ONE = (
    f"{ONE_EXAMPLE}: shrink this program by --ratio, --max-flops or --max-params instead, or the network that it was made"
    " from to that limit; surgeon bench takes --batch {batch}"
)


def refuse_other_sizes(shapes: Iterable[Shape], tensors: Sequence[Tensor], inputs: Any) -> None:
    """Raise BadInput at the first tensor that has another size than it was captured with.

    inputs: the structure with a Slot for each tensor, which says what they are called.
    """
    for i, (shape, tensor) in enumerate(zip(shapes, tensors, strict=True)):
        # free sizes are not looked at: torch.export would take a look for a condition
        if len(shape) != tensor.dim() or any(
            want is not None and want != size
            for want, size in zip(shape, tensor.shape, strict=True)
        ):
            raise BadInput(
                f"this program takes {_names(inputs)[i]} {_shown(shape)}, not {_shown(tensor.shape)}:"
                " it was captured with that size",
                _hint(shape, tensor),
            )


def _hint(shape: Shape, tensor: Tensor) -> str:
    """What to do, where nothing but the batch is another and where more is."""
    single = len(shape) == tensor.dim() and tensor.dim() > 0 and len(tensor) == 1
    if single and all(n in (None, m) for n, m in zip(shape[1:], tensor.shape[1:], strict=True)):
        return _HINT_ONE.format(batch=shape[0])
    return _HINT


def said(shapes: Sequence[Shape], inputs: Any) -> tuple[str, ...]:
    """One line that names the inputs with a fixed size; none where all are free."""
    names = _names(inputs)
    fixed = [
        f"{names[i]} {_shown(shape)}"
        for i, shape in enumerate(shapes)
        if any(n is not None for n in shape)
    ]
    return (f"{CAPTURED} (* is any): {', '.join(fixed)}",) if fixed else ()


def _shown(shape: Iterable[Any]) -> str:
    return f"[{', '.join('*' if n is None else str(n) for n in shape)}]"


def _names(inputs: Any) -> dict[int, str]:
    """What each slot is called: 'input_ids', 'images.0'; 'input 0' for the first position."""
    args, kwargs = inputs
    positions = dict(_paths(args, ""))
    return {**{i: f"input {name}" for i, name in positions.items()}, **dict(_paths(kwargs, ""))}


def _paths(template: Any, path: str) -> Iterator[tuple[int, str]]:
    if isinstance(template, Slot):
        yield template.index, path
        return
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(template, Mapping):
        pairs = template.items()
    elif isinstance(template, list | tuple):
        pairs = enumerate(template)
    for key, inner in pairs:
        yield from _paths(inner, f"{path}.{key}" if path else str(key))
