"""The whole pipeline in one call: trace, couple, score, plan, cut, check, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from typing_extensions import Unpack

from surgeon.errors import BadInput
from surgeon.pipeline.asked import Asked, Options, aligned, asked
from surgeon.pipeline.followed import followed
from surgeon.pipeline.limited import shrink_to_limits
from surgeon.pipeline.proposed import Proposal, proposed, refuse_unready
from surgeon.pipeline.proven import carried_out, finished
from surgeon.pipeline.recovered import recovered
from surgeon.pipeline.regime import Regime, Shrinking
from surgeon.pipeline.result import Result
from surgeon.pipeline.settled import settled
from surgeon.pipeline.steps import Progress, Steps
from surgeon.pipeline.stepwise import Wanted, shrink_in_steps
from surgeon.pipeline.traced import Traced, trace
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped


def shrink(  # noqa: PLR0913  the public call: what is cut, and three switches
    model: nn.Module,
    example_inputs: Any,
    ratio: float | None = None,
    *,
    check: bool = True,
    measure: bool = True,
    source: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Shrinking],
) -> Result:
    """Remove channels from a copy of `model`, prove the copy and measure it; `model` is untouched.

    ratio: share of channels removed of each group, in [0, 1). Other options: `Options`, and `Regime` for several steps,
    training between and after them, and weights that are rewound or begin anew.
    check: run the oracle (raises CheckFailed; False is not obeyed where only the oracle can tell that the
    cut is right: a layer left with one channel). measure: count, export and time both networks.
    Raises BadInput for what cannot be used, OutOfReach where nothing can be cut or a limit is out of
    reach.

    >>> r = shrink(net, torch.zeros(1, 3, 224, 224), ratio=0.5)  # doctest: +SKIP
    """
    run = Steps(progress)
    model, inputs = unwrapped(model), Inputs.of(example_inputs)
    _with_numbers(model, check or measure)
    regime, wanted = _asked(ratio, options)
    wanted = aligned(wanted, run)
    if not regime.plain:
        return shrink_in_steps(model, inputs, wanted, Wanted(regime, check, measure, source), run)
    if wanted.request.measured:
        return shrink_to_limits(model, inputs, wanted, run, (check, source))
    refuse_unready(wanted)

    def tried(traced: Traced) -> tuple[Proposal, Traced, Result]:
        found = proposed(traced, inputs, wanted, source, run)
        done, ran = run("cut", lambda: carried_out(traced, inputs, found.plan))
        result = finished(
            (model, inputs, ran), done, found.plan, found.notes, run, (check, measure)
        )
        return found, ran, result

    traced = run("trace and couple", lambda: trace(model, inputs))
    proposal, traced, result = followed(traced, tried, wanted.request)
    result = replace(result, dead=proposal.dead)
    if proposal.dead and wanted.material.data is not None:
        return run("carry constants", lambda: settled(result, traced, wanted.material))
    if "compensate" not in wanted.material.recover:
        return result
    return run("recover", lambda: recovered(result, traced, wanted.material))


def propose(
    model: nn.Module,
    example_inputs: Any,
    ratio: float | None = None,
    *,
    source: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Proposal:
    """What `shrink` would cut with the same arguments; nothing is cut. Raises as `shrink` does.

    It is a plan: where neither the network's own forward nor a program of it follows, `shrink` leaves more whole.

    A model on the meta device will do where the criterion reads no weights (criterion='random').
    """
    run = Steps(progress)
    request = aligned(asked(ratio, options), run)
    return proposed(model, Inputs.of(example_inputs), request, source, run)


def remove(
    model: nn.Module,
    example_inputs: Any,
    channels: Mapping[str, Sequence[int]],
    **kwargs: Any,
) -> Result:
    """Remove channels by hand: {'layer1.0.conv1': [0, 3, 5]} output channels of a layer,
    {'layer2.0.conv1:in': [1]} its input kernels; what is coupled follows. Else as `shrink`."""
    return shrink(model, example_inputs, remove=channels, **kwargs)


def _with_numbers(model: nn.Module, needed: bool) -> None:
    if not needed or not isinstance(model, nn.Module):
        return
    if any(t.is_meta for t in named_state(model).values()):
        raise BadInput(
            "the model is on the meta device: without numbers a cut cannot be proven or measured",
            "load the weights; surgeon.propose plans without, and so does check=False, measure=False",
        )


def check_options(ratio: float | None = None, **options: Unpack[Shrinking]) -> None:
    """Raise BadInput for options that `shrink` would refuse, without a model."""
    _asked(ratio, options)


def _asked(ratio: float | None, options: Shrinking) -> tuple[Regime, Asked]:
    given: Any = dict(options)
    regime = Regime.taken(given)
    wanted = asked(ratio, given)
    if regime.steps > 1 and wanted.sensitivity is not None:
        raise BadInput(
            "a sensitivity is of the whole network: after the first of several steps it holds no more",
            "leave out --sensitivity, and with --data each step measures its own, or --steps",
        )
    if wanted.request.measured and not regime.plain:
        raise BadInput(
            "limits that are measured are met in one cut, without training in between",
            "leave out steps, tune, rewind and reinit; then surgeon tune the result",
        )
    return regime, wanted
