"""Does this state dict fit that architecture: what differs, and which known ones it does fit."""

import importlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.files.arch import build
from surgeon.trace.weightless import Weightless

_SHOWN = 3  # differences of each kind in a message

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Difference:
    """How a state dict and a model disagree: keys only one has, and keys of two shapes."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # name, in file, in model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        shapes = [
            f"{name}: {list(a)} in the file, {list(b)} in the model" for name, a, b in self.shapes
        ]
        kinds = (
            ("of another shape", shapes),
            ("missing from the file", self.missing),
            ("only in the file", self.unexpected),
        )
        return "\n".join(line for title, names in kinds for line in _listing(title, names))


def _listing(title: str, names: list[str] | tuple[str, ...]) -> list[str]:
    if not names:
        return []
    more = [f"    and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [f"  {title}:", *(f"    {name}" for name in names[:_SHOWN]), *more]


def difference(state: Mapping[str, Tensor], model: nn.Module) -> Difference:
    """What keeps `state` from being loaded into `model`."""
    return _difference(_shapes(state), _shapes(model.state_dict()))


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    # counters of batches are absent from old files and carry nothing that a cut needs
    return {
        name: tuple(value.shape)
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith("num_batches_tracked")
    }


def _difference(have: Shapes, want: Shapes) -> Difference:
    return Difference(
        tuple(name for name in want if name not in have),
        tuple(name for name in have if name not in want),
        tuple((n, have[n], want[n]) for n in want if n in have and have[n] != want[n]),
    )


def options_for(state: Mapping[str, Tensor], found: Difference) -> dict[str, Any]:
    """Factory options that may close the gap: another number of classes, auxiliary heads or none.

    Only a proposal; the caller builds again and compares again.
    """
    options: dict[str, Any] = {}
    if found.shapes:
        last = found.shapes[-1][1]
        options |= {"num_classes": last[0]} if last else {}
    if any(_is_aux(name) for name in found.missing):
        options["aux_logits" if _has_logits(found.missing) else "aux_loss"] = False
    elif any(_is_aux(name) for name in found.unexpected):
        options["aux_logits" if _has_logits(found.unexpected) else "aux_loss"] = True
    return options


def _is_aux(name: str) -> bool:
    return name.lower().startswith("aux")


def _has_logits(names: tuple[str, ...]) -> bool:
    # googlenet aux1, aux2; inception AuxLogits; segmentation's aux_classifier is an aux_loss
    return not any(name.startswith("aux_classifier") for name in names)


def load(state: dict[str, Tensor], model: nn.Module) -> None:
    """Copy `state`, which fits, into `model`."""
    own = model.state_dict()
    full = OrderedDict(state)
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            full.setdefault(name, value)
    # layers read their format's version here; a file without any is taken to be current
    vars(full)["_metadata"] = getattr(state, "_metadata", None) or getattr(own, "_metadata", None)
    model.load_state_dict(full)


def which_fit(state: Mapping[str, Tensor]) -> list[str]:
    """References of torchvision models whose keys and shapes `state` has, best first.

    A model that fits once rebuilt with another number of classes is named with what differs:
    `torchvision:resnet50 (but for fc.weight, fc.bias: 10 classes)`. Builds one small member of
    each family to sort most out: about two seconds.
    """
    have = _shapes(state)
    fits = [fit for family in _families() for fit in _fits_in(family, have)]
    return [text for _, text in sorted(fits, key=lambda fit: fit[0])]


def _families() -> Iterator[list[str]]:
    models = importlib.import_module("torchvision.models")
    homes: dict[str, list[str]] = {}
    for name in models.list_models():
        home = models.get_model_builder(name).__module__
        if not any(part in home for part in ("quantization", "detection", "optical_flow")):
            homes.setdefault(home, []).append(name)
    yield from homes.values()


def _fits_in(family: list[str], have: Shapes) -> Iterator[tuple[int, str]]:
    first = next(iter(_skeleton(family[-1])))
    if first not in have:
        return
    for name in family:
        want = _skeleton(name)
        # options (classes, auxiliary heads) change a few keys, never most of them
        if 2 * len(want.keys() & have.keys()) > max(len(want), len(have)):
            yield from _fit(name, have, want)


def _fit(name: str, have: Shapes, want: Shapes) -> Iterator[tuple[int, str]]:
    found = _difference(have, want)
    if not found:
        yield 0, f"torchvision:{name}"
        return
    options = options_for(_as_meta(have), found)
    if not options or _difference(have, _skeleton(name, options)):
        return
    classes = options.get("num_classes")
    if classes is None:
        yield 0, f"torchvision:{name}"
        return
    heads = ", ".join(name for name, _, _ in found.shapes)
    yield 1, f"torchvision:{name} (but for {heads}: {classes} classes)"


def _as_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _skeleton(name: str, options: Mapping[str, Any] | None = None) -> dict[str, tuple[int, ...]]:
    try:
        with Weightless():
            return _shapes(build(f"torchvision:{name}", options).model.state_dict())
    except BadInput:  # an option that this factory does not take
        return {"": ()}
