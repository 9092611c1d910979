"""What is dead on the user's examples: its constants go into biases after the proof, and the outputs on the examples stay."""

from __future__ import annotations

from dataclasses import replace

import torch

from surgeon.compare import compare
from surgeon.errors import BadInput, CheckFailed
from surgeon.pipeline.result import Result
from surgeon.pipeline.traced import Traced
from surgeon.running import as_dtype, run
from surgeon.score import Material
from surgeon.slices import sliced
from surgeon.trace.tensors import named_state

_ALLOWED = 1e-4  # of the outputs' range, on the examples: constants are rounded to the biases' own precision


def settled(result: Result, traced: Traced, material: Material) -> Result:
    """The constants of channels that are off on the data, carried; compared with the original on all of it.

    The oracle proved the cut as any other. That these channels are constant is true of the examples
    alone, and the plan and a note say so. Raises CheckFailed where the outputs on the examples change.
    """
    assert material.data is not None and result.dead is not None
    _carry(result)
    wide = as_dtype(traced.model, torch.float64), as_dtype(result.model, torch.float64)
    worst, count = 0.0, 0
    for sample in material.data:
        inputs = sample.inputs.map(lambda t: t.double() if t.is_floating_point() else t)
        worst = max(worst, compare(run(wide[0], inputs), run(wide[1], inputs)))
        count += sample.inputs.batch or 1
    if not worst <= _ALLOWED:
        raise CheckFailed(
            f"the outputs on the {count} examples change by {worst:.1e} of their range",
            "this is a bug in surgeon: nothing was written",
        )
    said = f"dead on {count} examples, on which the outputs change by {worst:.1e} of their range; on others they may"
    how = {"by": "constants of channels that are off on the data", "data": material.data.about}
    return replace(result, plan=result.plan.marked(how), notes=(*result.notes, said))


@torch.no_grad()
def _carry(result: Result) -> None:
    own = named_state(result.model)
    assert result.dead is not None
    for name, delta in result.dead.carries.items():
        if name not in own:
            raise BadInput(f"the slim model has no {name}, which takes up constants")
        own[name] += sliced(delta, result.plan.keep.get(name, {})).to(own[name])
