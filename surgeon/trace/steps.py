"""A graph as a list of calls: how a Program runs, with no code generated, in eval or in training mode."""

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from surgeon.trace.guards import guarded
from surgeon.trace.lift import Slot

Observer = Callable[[fx.Node, Any], None]
Places = Mapping[str, tuple[dict[str, Any], str]]  # state name -> the dict that holds it, its key

# An op with a bool argument of one of these names computes differently in training.
_SWITCHES = frozenset({"train", "training", "use_input_stats"})
_BATCH_NORM = torch.ops.aten.batch_norm.default
_RUNNING_MEAN, _MOMENTUM = 3, 6  # places in batch_norm's arguments


@dataclass(frozen=True, eq=False)
class Step:
    """One call: `holes` are the positions in `args` that wait for values of earlier steps."""

    node: fx.Node
    call: Callable[..., Any]
    args: tuple[Any, ...]
    holes: tuple[tuple[int, Any], ...]
    kwargs: dict[str, Any]
    out: int
    drop: tuple[int, ...]  # values that nothing reads after this step


@dataclass(frozen=True, eq=False)
class Steps:
    """A whole graph, ready to run: values live in numbered places."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    output: Any
    size: int

    def run(self, inputs: list[Any], observe: Observer | None = None) -> Any:
        """The graph's output; `observe(node, value)` is called after each node."""
        env: list[Any] = [None] * self.size
        for place, value in zip(self.inputs, inputs, strict=True):
            env[place] = value
        del inputs[:]  # so that what no step needs any more can be freed
        for step in self.steps:
            args = list(step.args)
            for position, template in step.holes:
                args[position] = _fill(template, env)
            env[step.out] = step.call(*args, **_fill(step.kwargs, env))
            if observe is not None:
                observe(step.node, env[step.out])
            for place in step.drop:
                env[place] = None
        return _fill(self.output, env)


def compile_steps(graph: fx.Graph, state: Places, training: bool) -> Steps:
    """The graph's calls in order; `training` takes the place of mode arguments that are False."""
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    drop: dict[fx.Node, list[int]] = {node: [] for node in nodes}
    for used, user in last.items():
        drop[user].append(place[used])
    steps = []
    for node in nodes:
        if node.op in ("placeholder", "output"):
            continue
        call, args = _call(node, state, training)
        given = tuple(_template(arg, place) for arg in args)
        holes = tuple((i, arg) for i, arg in enumerate(given) if _waits(arg))
        kwargs = _template(node.kwargs, place)
        unused = [] if node.users else [place[node]]
        dead = tuple(drop[node] + unused)
        steps.append(Step(node, call, given, holes, kwargs, place[node], dead))
    inputs = tuple(place[node] for node in nodes if node.op == "placeholder")
    return Steps(tuple(steps), inputs, _template(nodes[-1].args[0], place), len(nodes))


def bind(template: Any, value: Any, what: str = "the inputs") -> list[Any]:
    """The tensors of `value` in the order of the template's slots.

    Raises TypeError where the structure or a constant differs.
    """
    found: dict[int, Any] = {}
    _match(template, value, what, found)
    return [found[i] for i in sorted(found)]


def _match(template: Any, value: Any, what: str, found: dict[int, Any]) -> None:
    if isinstance(template, Slot):
        if not isinstance(value, Tensor):
            raise TypeError(f"{what} must be a tensor, not {type(value).__name__}")
        found[template.index] = value
        return
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(template, Mapping):
        same = isinstance(value, Mapping) and template.keys() == value.keys()
        pairs = [(key, template[key], value[key]) for key in template] if same else []
    elif isinstance(template, list | tuple):
        same = isinstance(value, list | tuple) and len(template) == len(value)
        pairs = list(zip(range(len(template)), template, value, strict=True)) if same else []
    else:
        same = type(template) is type(value) and template == value
    if not same:
        raise TypeError(f"{what}: the program was made for {_shown(template)}")
    for key, inner, item in pairs:
        _match(inner, item, f"{what}[{key!r}]", found)


def _shown(template: Any) -> str:
    if isinstance(template, Slot):
        return "a tensor"
    if isinstance(template, Mapping):
        return f"{{{', '.join(f'{key!r}: {_shown(item)}' for key, item in template.items())}}}"
    if isinstance(template, list | tuple):
        return f"({', '.join(_shown(item) for item in template)})"
    return repr(template)


def mode_switch(node: fx.Node) -> int | None:
    """The position of the argument that training mode turns on, or None.

    An op that had it True in eval mode (batch statistics, Monte Carlo dropout) keeps it.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name in _SWITCHES and argument.type.kind() == "BoolType":
            given = position < len(node.args) and node.args[position] is False
            return position if given else None
    return None


def _call(
    node: fx.Node, state: Places, training: bool
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    if node.op == "get_attr":
        table, key = state[str(node.target)]
        return functools.partial(operator.getitem, table, key), ()
    assert callable(node.target)
    switch = mode_switch(node) if training else None
    if switch is None:
        return guarded(node.target), node.args
    args = (*node.args[:switch], True, *node.args[switch + 1 :])
    counter = _counter(node, state)
    if counter is None:
        return guarded(node.target), args
    return functools.partial(_counting_batch_norm, *counter), args


def _counter(node: fx.Node, state: Places) -> tuple[dict[str, Any], str] | None:
    """Where the batch norm behind this node counts its batches, if it does."""
    if node.target is not _BATCH_NORM or len(node.args) <= _MOMENTUM:
        return None
    mean = node.args[_RUNNING_MEAN]
    if not isinstance(mean, fx.Node):
        return None
    owner = str(mean.target).rpartition("running_mean")[0]
    return state.get(f"{owner}num_batches_tracked")


def _counting_batch_norm(table: dict[str, Any], key: str, *args: Any) -> Tensor:
    """What `nn.BatchNorm2d.forward` does in training: it counts before it normalises."""
    table[key].add_(1)
    if args[_MOMENTUM] == 0.0:  # `momentum=None`: the running statistics are a plain average
        args = (*args[:_MOMENTUM], 1.0 / float(table[key]), *args[_MOMENTUM + 1 :])
    return _BATCH_NORM(*args)


def _template(arg: Any, place: dict[fx.Node, int]) -> Any:
    """The argument with a Slot for every node, in plain containers."""
    if isinstance(arg, fx.Node):
        return Slot(place[arg])
    if isinstance(arg, list | tuple):
        kind = list if isinstance(arg, list) else tuple
        return kind(_template(item, place) for item in arg)
    if isinstance(arg, Mapping):
        return {key: _template(item, place) for key, item in arg.items()}
    if isinstance(arg, slice):
        return slice(*(_template(item, place) for item in (arg.start, arg.stop, arg.step)))
    return arg


def _waits(template: Any) -> bool:
    if isinstance(template, list | tuple):
        return any(_waits(item) for item in template)
    return isinstance(template, Slot | slice)


def _fill(template: Any, env: list[Any]) -> Any:
    kind = type(template)
    if kind is Slot:
        return env[template.index]
    if kind is list or kind is tuple:
        return kind([_fill(item, env) for item in template])
    if kind is dict:
        return {key: _fill(item, env) for key, item in template.items()}
    if kind is slice:
        return slice(*(_fill(item, env) for item in (template.start, template.stop, template.step)))
    return template
