"""Whether a cut language model still runs with its cache on, as its users call it: it is traced and proven without.

Attributes that only that code reads are set to the sizes of the cut, where it then runs and gives what the proven
code gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from surgeon.compare import compare
from surgeon.couple import Coupling
from surgeon.cut.repair import repair
from surgeon.cut.sizes import Sizes
from surgeon.errors import CheckFailed
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.quiet import mute
from surgeon.trace.caches import caches_off, has_caches
from surgeon.trace.inputs import Inputs
from surgeon.trace.shell import twin_of
from surgeon.trace.tensors import named_outputs

_SAME = 1e-4  # of an output's range: a cache adds up in another order


def with_cache(
    model: nn.Module, slim: nn.Module, inputs: Inputs, coupling: Coupling, plan: Plan
) -> tuple[str, ...]:
    """What to say where the original runs with its cache and the cut copy does not: a size that only that code reads
    stays the original's. Nothing where that could be mended in `slim`, where there is no cache, or for a program, which
    has none."""
    if not has_caches(model) or not has_caches(slim):
        return ()
    calls = [c for c in _calls(inputs) if not isinstance(_outputs(model, c), str)]
    failing = [why for c in calls if isinstance(why := _outputs(slim, c), str)]
    if not failing:
        return ()
    proven = [(c, _outputs(slim, c, cache=False)) for c in calls]
    sizes = Sizes(coupling, removed_by(coupling, plan))
    if repair(
        slim, sizes, lambda: None if all(_gives(slim, c, want) for c, want in proven) else -1
    ):
        return ()
    return (
        f"with its cache on, the cut network fails ({failing[0]}): call it with use_cache=False",
    )


def _calls(inputs: Inputs) -> Iterator[Inputs]:
    """The call, and its first position alone, as the steps behind it are: they may go another way."""
    yield inputs
    lengths = {t.shape[1] if t.dim() > 1 else 0 for t in inputs.tensors}
    if len(lengths) == 1 and lengths.pop() > 1:
        yield inputs.map(lambda t: t[:, :1])


def _gives(slim: nn.Module, inputs: Inputs, want: dict[str, Tensor] | str) -> bool:
    """Whether it gives these outputs, with its cache on and still without."""
    for cache in (False, True):
        got = _outputs(slim, inputs, cache=cache)
        if isinstance(got, str) or isinstance(want, str) or not want.keys() <= got.keys():
            return False
        try:
            error = compare([*want.values()], [got[name] for name in want])
        except CheckFailed:  # of another shape
            return False
        if not error < _SAME:
            return False
    return True


def _outputs(model: nn.Module, inputs: Inputs, *, cache: bool = True) -> dict[str, Tensor] | str:
    """What a copy gives, by name; or why it fails."""
    twin = twin_of(model).eval()
    try:
        with mute(), torch.no_grad(), nullcontext() if cache else caches_off(twin):
            return dict(named_outputs(inputs.map(torch.clone).run(twin)))
    except Exception as error:  # noqa: BLE001  the model's own, whatever it is
        return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
