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
    left alone. What is of a weight's shape (momentum, Adam's moments) is sliced as the weight is; where rows of a weight took up
    a factor (`Plan.folds`), what is remembered of their gradients takes up its inverse, and their squares its square. Raises
    BadInput, with nothing changed, for a weight that the slim network does not have, state of any
    other shape (Adafactor's rows and columns), or state of such rows of which it is not known how it scales.
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


# state of torch's optimizers: what goes with the weight (1), its gradient (-1), or their squares
_POWERS = {
    "momentum_buffer": -1, "exp_avg": -1, "exp_inf": -1, "grad_avg": -1, "prev": -1,
    "exp_avg_sq": -2, "max_exp_avg_sq": -2, "square_avg": -2, "sum": -2,
    "ax": 1, "acc_delta": 2, "step_size": 1,
}  # fmt: skip


def _power(what: str, own: dict[str, Any], name: str) -> int:
    """With which power of a weight's factor its state goes."""
    if what == "momentum_buffer" and "square_avg" in own:
        return 0  # RMSprop's momentum is of steps, which have no unit
    if what not in _POWERS:
        raise BadInput(
            f"rows of {name} took up a factor, and how the optimizer's {what} scales is not known",
            "make a new optimizer of the slim network's parameters",
        )
    return _POWERS[what]


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
            for first, last, factor in plan.folds.get(name, ()):
                value[first:last] *= factor ** _power(what, own, name)
        elif isinstance(value, Tensor) and value.dim():
            raise BadInput(
                f"the optimizer's {what} of {name} is {list(value.shape)}, the weight {list(weight.shape)}",
                "an optimizer whose state is of the weights' shapes can go on: SGD, Adam and their like",
            )
        found[what] = value
    return found
