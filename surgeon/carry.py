"""An optimizer goes on with the cut network: its groups, and what it remembers of each weight that stays."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from surgeon.errors import BadInput
from surgeon.plan import Plan
from surgeon.slices import sliced
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped


def carry(optimizer: Optimizer, model: nn.Module, slim: nn.Module, plan: Plan) -> None:
    """Put `slim`'s weights in place of `model`'s in an optimizer, with the kept part of their state.

    model, slim, plan: before the cut, after it, and what stays. Groups, learning rates and step counts
    stay as they are, so a scheduler of the optimizer goes on too; weights that are not the model's are
    left alone. What is of a weight's shape (momentum, Adam's moments) is sliced as the weight is. Raises
    BadInput, with nothing changed, for a weight that the slim network does not have or state of any
    other shape (Adafactor's rows and columns).
    """
    places = _places(unwrapped(model), unwrapped(slim))
    new: dict[int, Tensor] = {}
    state: dict[Tensor, Any] = {}
    for group in optimizer.param_groups:
        for old in group["params"]:
            pair = places.get(id(old))
            new[id(old)] = old if pair is None else _of_slim(pair)
            if old in optimizer.state:
                own = optimizer.state[old]
                state[new[id(old)]] = own if pair is None else _remembered(own, pair, plan)
    for group in optimizer.param_groups:
        group["params"] = [new[id(old)] for old in group["params"]]
    optimizer.state.clear()
    optimizer.state.update(state)


def _places(model: nn.Module, slim: nn.Module) -> dict[int, tuple[Tensor, Tensor | None, str]]:
    after = named_state(slim)
    named = [(n, t) for n, t in named_state(model).items() if isinstance(t, nn.Parameter)]
    # of tied names the first: the slim network ties the same
    return {id(t): (t, after.get(n), n) for n, t in reversed(named)}


def _of_slim(pair: tuple[Tensor, Tensor | None, str]) -> Tensor:
    if pair[1] is None:
        raise BadInput(
            f"{pair[2]} is trained, and the slim network has no such weight: it was made plain",
            "make a new optimizer of the slim network's parameters",
        )
    return pair[1]


def _remembered(own: Any, pair: tuple[Tensor, Tensor | None, str], plan: Plan) -> dict[str, Any]:
    weight, _, name = pair
    found: dict[str, Any] = {}
    for what, value in own.items():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value = sliced(value, plan.keep.get(name, {})).clone()
        elif isinstance(value, Tensor) and value.dim():
            raise BadInput(
                f"the optimizer's {what} of {name} is {list(value.shape)}, the weight {list(weight.shape)}",
                "an optimizer whose state is of the weights' shapes can go on: SGD, Adam and their like",
            )
        found[what] = value
    return found
