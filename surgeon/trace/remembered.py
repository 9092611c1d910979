"""Results that a forward keeps on its modules for the next one: an attention bias by device, a table of positions.

They are no state: a cut copy would keep them as they were before the cut, and where they are read the weights that
they were made of are not. A forward that finds none makes them anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.quiet import mute
from surgeon.trace.folding import own_twin
from surgeon.trace.inputs import Inputs
from surgeon.trace.mode import forward_mode
from surgeon.trace.modules import first_paths
from surgeon.trace.recorder import drawn_alike
from surgeon.trace.shell import twin_of
from surgeon.trace.tensors import named_state, output_tensors, tables_of

_Place = tuple[str, str]  # a module's path, the name of its attribute
_KINDS = 12  # of attributes that are tried; each costs a forward


def forgotten(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The model where it remembers nothing; else a copy around the very same state that does not.

    What is remembered is seen by taking it off: the forward makes it again, and gives the same outputs.
    """
    if not any(True for _ in _places(model)):
        return model
    places = list(_places(twin_of(model).eval()))
    if not places or any(t.is_meta for t in named_state(model).values()):
        return model
    want = _run(twin_of(model).eval(), inputs)
    kinds: dict[tuple[type, str], list[_Place]] = defaultdict(list)
    for path, name in places:
        kinds[type(model.get_submodule(path)), name].append((path, name))
    if want is None or len(kinds) > _KINDS:
        return model
    gone = [p for kind in kinds.values() if _made_again(model, kind, inputs, want) for p in kind]
    if not gone:
        return model
    copy = own_twin(model)
    _take_off(copy, gone)
    return copy


def _places(model: nn.Module) -> Iterator[_Place]:
    """Attributes that hold tensors of their own, not state under another name. What a hook leaves on its module is
    the hook's affair."""
    state = {id(t) for t in named_state(model).values()}
    for module, path in first_paths(model).items():
        tables = tables_of(module)
        for name, value in module.__dict__.items() if not module._forward_pre_hooks else ():
            alone = isinstance(value, Tensor) and id(value) not in state
            if alone or (name in tables and all(isinstance(t, Tensor) for t in value.values())):
                yield path, name


def _made_again(
    model: nn.Module, places: Iterable[_Place], inputs: Inputs, want: list[Tensor]
) -> bool:
    twin = twin_of(model).eval()
    _take_off(twin, places)
    got = _run(twin, inputs)
    if got is None or len(got) != len(want) or not all(map(torch.equal, got, want)):
        return False
    return set(places) <= set(_places(twin))


def _take_off(model: nn.Module, places: Iterable[_Place]) -> None:
    for path, name in places:
        module = model.get_submodule(path)
        empty: Any = None if isinstance(getattr(module, name), Tensor) else {}
        module.__dict__[name] = empty


def _run(model: nn.Module, inputs: Inputs) -> list[Tensor] | None:
    try:
        with mute(), drawn_alike(), forward_mode(model):
            return output_tensors(inputs.map(torch.clone).run(model))
    except Exception:  # noqa: BLE001  the model's own, whatever it is
        return None
