"""Modules with a rule of their own: a call is one op, and what is inside is run but not looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from surgeon.errors import BadInput
from surgeon.graph import Graph, Node
from surgeon.rules.registry import MODULES, ModuleRule, module_rule


@dataclass(frozen=True)
class CalledAs:
    """What a recorded call keeps: the module's path, its rule, and the factors its attributes name."""

    path: str
    rule: ModuleRule
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        return self.rule.op


@dataclass(frozen=True, eq=False)
class Called:
    """One call of a module that has a rule."""

    what: CalledAs
    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...] = field(default=())

    def operands(self) -> list[Tensor]:
        """Tensors given to forward in order, then the module's own."""
        given = [t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]
        return given + [_get(self.module, n) for n in self.names]

    def run(self, operands: Sequence[Tensor], sizes: Mapping[str, int] | None = None) -> Any:
        """The module's own forward on these tensors; with other `sizes` of factors, on attributes that say so."""
        left = iter(operands)
        args, kwargs = tree_map_only(Tensor, lambda _: next(left), (self.args, self.kwargs))
        own = dict(zip(self.names, left, strict=True))
        said = _attributes(self.what.rule, sizes or {})
        with _holding(self.module, own), _saying(self.module, said):
            return self.forward(*args, **kwargs)


class _Sent:
    """A module's forward that goes to `see` as one call."""

    def __init__(self, path: str, module: nn.Module, forward: Any, see: Callable[[Called], Any]):
        self.path, self.module, self.forward, self.see = path, module, forward, see

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        rule = module_rule(type(self.module))
        assert rule is not None
        names = rule.state if rule.state is not None else _all_state(self.module)
        what = CalledAs(self.path, rule, _named_sizes(rule, self.module))
        return self.see(Called(what, self.module, self.forward, args, kwargs, tuple(names)))


def send_calls(twin: nn.Module, see: Callable[[Called], Any]) -> None:
    """From now on, calls of modules with a rule go to `see`. For a copy of surgeon's own."""
    for path, module in twin.named_modules() if MODULES else ():
        if module_rule(type(module)) is not None:
            forward = module.forward
            forward = forward.forward if isinstance(forward, _Sent) else forward
            module.__dict__["forward"] = _Sent(path, module, forward, see)


def calls(graph: Graph) -> Iterator[tuple[Node, CalledAs]]:
    """The nodes that are calls of modules."""
    for node in graph.nodes:
        if isinstance(node.target, CalledAs):
            yield node, node.target


def _all_state(module: nn.Module) -> list[str]:
    return [n for n, _ in (*module.named_parameters(), *module.named_buffers())]


def _get(module: nn.Module, name: str) -> Tensor:
    table, leaf = _place(module, name)
    return table[leaf]


def _place(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    path, _, leaf = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        owner = nn.Module()
    for table in (owner._parameters, owner._buffers):
        if table.get(leaf) is not None:
            return table, leaf
    raise BadInput(
        f"the rule of {type(module).__name__} names {name}, which it has not",
        f"it has {', '.join(_all_state(module)) or 'no tensors of its own'}",
    )


def _named_sizes(rule: ModuleRule, module: nn.Module) -> dict[str, int]:
    """Factors that an attribute holds by itself."""
    single = {a: rule.factors(a)[0] for a in rule.sizes if len(rule.factors(a)) == 1}
    return {x: n for a, x in single.items() if type(n := getattr(module, a, None)) is int}


def _attributes(rule: ModuleRule, sizes: Mapping[str, int]) -> dict[str, int]:
    named = {a: rule.factors(a) for a in rule.sizes}
    return {a: prod(sizes[x] for x in xs) for a, xs in named.items() if all(x in sizes for x in xs)}


@contextmanager
def _holding(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    places = [(*_place(module, n), t) for n, t in tensors.items()]
    before = [table[leaf] for table, leaf, _ in places]
    for table, leaf, tensor in places:
        table[leaf] = tensor
    try:
        yield
    finally:
        for (table, leaf, _), old in zip(places, before, strict=True):
            table[leaf] = old


@contextmanager
def _saying(module: nn.Module, attributes: Mapping[str, int]) -> Iterator[None]:
    before = {a: getattr(module, a) for a in attributes}
    for name, value in attributes.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
