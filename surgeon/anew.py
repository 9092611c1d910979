"""Weights of a cut network: those that it had before the cut, those of an earlier checkpoint, or new ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.plan import Plan
from surgeon.shake import planned
from surgeon.trace.folding import own_copy, ready, recompute
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped


@torch.no_grad()
def hand_over(slim: nn.Module, before: nn.Module, step: Plan, names: Iterable[str]) -> None:
    """Give `slim` the kept part of what `before` holds under these names.

    step: what was cut of `before`; its folds are factors of rows.
    """
    own, theirs = named_state(before), named_state(slim)
    for name in names:
        if name in own and name in theirs:
            theirs[name].copy_(planned(name, own[name], step))
    recompute(slim)


def rewind(slim: nn.Module, model: nn.Module, earlier: Any, plan: Plan) -> None:
    """Give `slim` the kept part of an earlier checkpoint's weights and buffers (the lottery ticket: Frankle and
    Carbin 2019, arXiv 1803.03635; late rewinding: arXiv 1903.01611).

    model: the network that `plan` is for; earlier: the same network with other weights, or its state. Raises BadInput, with
    nothing changed, where it is another network.
    """
    twin = ready(_with(unwrapped(model), earlier)).model
    hand_over(slim, twin, plan, named_state(twin))


def _with(model: nn.Module, earlier: Any) -> nn.Module:
    own = model.state_dict()
    state = unwrapped(earlier).state_dict() if isinstance(earlier, nn.Module) else earlier
    if not isinstance(state, Mapping):
        raise BadInput(f"a checkpoint is a module or its state, not {type(state).__name__}")
    wrong = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    wrong += [n for n in state if n not in own or _shape(state[n]) != _shape(own[n])]
    if wrong:
        name = wrong[0]
        here, there = _said(own.get(name)), _said(state.get(name))
        raise BadInput(
            f"the earlier checkpoint is of another network: {name} {there} there, and {here} here",
            "rewind to weights that this very network had",
        )
    twin = own_copy(model, {})
    twin.load_state_dict({**own, **state})
    return twin


def _shape(tensor: Any) -> Any:
    return list(tensor.shape) if isinstance(tensor, Tensor) else None


def _said(tensor: Any) -> str:
    return "is missing" if tensor is None else f"is {_shape(tensor)}"


@torch.no_grad()
def reinitialise(model: nn.Module, seed: int = 0) -> tuple[str, ...]:
    """Draw a network's parameters anew, by each module's own `reset_parameters`; gives the names of those that none of
    them sets, which stay as they are. Statistics that a module resets with them begin anew, too."""
    old = {n: p.detach().clone() for n, p in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.fill_(torch.nan)  # what is a number afterwards was set
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in reversed(list(model.modules())):  # one that sets its children's comes last
            _reset(module)
    stayed = []
    for name, parameter in model.named_parameters():
        unset = parameter.isnan()
        if bool(unset.any()):
            parameter.copy_(torch.where(unset, old[name], parameter))
            stayed.append(name)
    recompute(model)
    return tuple(stayed)


def _reset(module: nn.Module) -> None:
    """By torch's convention; nn.MultiheadAttention and nn.Transformer name theirs with an underscore."""
    for name in ("reset_parameters", "_reset_parameters"):
        reset = getattr(module, name, None)
        if callable(reset):
            with suppress(TypeError):  # one that wants arguments sets nothing
                reset()
            return
