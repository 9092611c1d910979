"""One dict of rules: op name -> what it means for channels. Twice raises; a missing one is a value.

A *factor rule* is a line of notation (or a function of the node that gives one); a *movement* is a
function on the algebra. An in-place op ('aten.relu_') has the rule of its plain form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surgeon.axes import Algebra, Dim, Dims, opaque
from surgeon.errors import BadInput
from surgeon.graph import Node, Value


@dataclass(frozen=True)
class Form:
    """A line of notation with the sizes of factors that no dimension shows by itself.

    `at` says which positional arguments the operands are, where they are not the first ones. `told`: the
    factors along which the second output holds positions (max along a dimension). `ranked`: factors
    that only outputs have, as many as another one's elements, in an order of their own (eigenvalues).
    `fixed`: factors that never go, and why. `why`: what to say of the dimensions that it does not let go, where "reads it as position, batch or
    space" is not the reason.
    """

    text: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    at: tuple[int, ...] | None = None
    told: str = ""
    ranked: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    why: str = "reads it as position, batch or space"


@dataclass(frozen=True)
class Site:
    """A node being coupled: what a movement sees. `read`: whether anything takes what it gives; of a part
    that nothing takes, the forward asked the shape."""

    algebra: Algebra
    node: Node
    dims: Callable[[Value], Dims]
    read: bool = True

    @property
    def x(self) -> Dims:
        """Dimensions of the first argument."""
        return self.dims(self.node.args[0])

    def shape(self, output: int = 0) -> tuple[int, ...]:
        """Shape of an output."""
        value = self.node.outputs[output]
        assert value is not None
        return value.shape

    def axis(self, position: int, default: int = 0) -> int:
        """A dimension argument, counted from the left."""
        return self.node.arg(position, default) % max(len(self.x), 1)

    def made(self, size: int) -> Dim:
        """A dimension that the op makes, whose positions differ."""
        why = f"meets positions that {self.node.op} makes, which stay"
        return opaque(size, why, self.algebra.where)

    def take(self, dim: int, index: Any) -> Dims:
        """The first argument's dimensions with these positions of one of them."""
        x = self.x
        return (*x[:dim], self.algebra.take(x[dim], np.asarray(index, np.int64)), *x[dim + 1 :])

    def by_position(self, dim: int, new: Dim) -> Dims:
        """The same with another dimension in place of one that the op reads by position."""
        x = self.x
        self.algebra.freeze(x[dim], f"{self.node.op} reads it by position")
        return (*x[:dim], new, *x[dim + 1 :])


Choose = Callable[[Node], Form]
Move = Callable[[Site], "list[Dims] | Dims"]


@dataclass(frozen=True)
class Rule:
    """`forms` is what people read; exactly one of `choose` and `move` is what runs.

    `sense`: 'sum' adds its tensors, 'scale' is linear in each of them, '' says nothing.
    """

    op: str
    family: str
    forms: tuple[str, ...]
    choose: Choose | None = None
    move: Move | None = None
    sense: str = ""


RULES: dict[str, Rule] = {}
USER = "user"  # the family of rules that the user gave


def _add(rule: Rule) -> None:
    if rule.op in RULES:
        raise ValueError(f"{rule.op} has a rule already: {', '.join(RULES[rule.op].forms)}")
    RULES[rule.op] = rule


def factor(op: str, text: str, *, family: str, at: tuple[int, ...] | None = None) -> None:
    """Register an op whose notation is always the same."""
    form = Form(text, at=at)
    _add(Rule(op, family, (text,), choose=lambda _node: form))


def chooses(
    *ops: str, family: str, forms: tuple[str, ...], sense: str = ""
) -> Callable[[Choose], Choose]:
    """Register ops whose notation depends on their arguments."""

    def register(choose: Choose) -> Choose:
        for op in ops:
            _add(Rule(op, family, forms, choose=choose, sense=sense))
        return choose

    return register


def moves(*ops: str, family: str = "movement") -> Callable[[Move], Move]:
    """Register ops that act on the algebra itself; the function's docstring is the form."""

    def register(move: Move) -> Move:
        for op in ops:
            _add(Rule(op, family, ((move.__doc__ or "").strip().split("\n")[0],), move=move))
        return move

    return register


def lookup(op: str) -> Rule | None:
    """The rule of 'aten.add_.Tensor': by full name, then by packet, then by its plain form."""
    packet = op.rsplit(".", 1)[0] if op.count(".") > 1 else op
    if op in _UNLIKE:
        return None
    for name in (op, packet, packet.rstrip("_")):
        if name in RULES:
            return RULES[name]
    return None


# overloads that do something else than the others of their name: the same bits as another dtype's numbers, another
# tensor's memory in place of none
_UNLIKE = frozenset({
    "aten.view.dtype", "aten.set_.source_Storage", "aten.set_.source_Storage_storage_offset",
    "aten.set_.source_Tensor", "aten.set_.source_Tensor_storage_offset",
})  # fmt: skip


@dataclass(frozen=True)
class ModuleRule:
    """One call of a module as one op. Its operands are the tensors that its forward is given, then its
    own state `state` (all parameters, then all buffers, where None).

    `sizes` says which attributes hold sizes: {'channels': 'c', 'width': 'g c'} for products.
    """

    op: str
    text: str
    state: tuple[str, ...] | None
    sizes: Mapping[str, str]

    def factors(self, attribute: str) -> tuple[str, ...]:
        """The factors that an attribute is the product of."""
        return tuple(x for x in self.sizes[attribute] if x.isalpha())


MODULES: dict[type, ModuleRule] = {}


def module_rule(kind: type) -> ModuleRule | None:
    """The rule of a module's class: its own, or that of the class whose forward it has."""
    for base in kind.__mro__:
        found = MODULES.get(base)
        if found is not None:
            return (
                found if getattr(kind, "forward", None) is getattr(base, "forward", None) else None
            )
    return None


def rule(
    op: str | type,
    text: str,
    *,
    state: tuple[str, ...] | None = None,
    sizes: Mapping[str, str] | None = None,
) -> None:
    """Give an op or a module its rule: `surgeon.rule("mylib::scale", "n c *, c -> n c *")`.

    op: 'namespace::name', as registered with torch.library; or a module's class, whose calls are then
    one op each, whatever its forward does inside. text: factor notation, an operand a tensor
    argument in order, whatever stands between them; a module's own tensors follow. state: which of
    them and in what order, by name (default: parameters, then buffers). sizes: which attributes of
    the module hold sizes, {'channels': 'c'}.

    Raises ValueError where there is a rule already or the text cannot be read.
    """
    _check_notation(text)
    if isinstance(op, type):
        _add_module(
            op,
            ModuleRule(f"module:{op.__module__}.{op.__qualname__}", text, state, dict(sizes or {})),
        )
        return
    if state is not None or sizes is not None:
        raise ValueError(f"state and sizes are a module's; {op} is an op")
    if not all(op.partition("::")):
        raise ValueError(f"an op is named 'namespace::name', not '{op}'")

    def choose(node: Node) -> Form:
        arguments = node.target._schema.arguments
        at = tuple(i for i, a in enumerate(arguments) if "Tensor" in str(a.type))
        return Form(text, at=_counted(node, at, text))

    _add(Rule(op.replace("::", "."), USER, (text,), choose=choose))


def forget(op: str | type) -> None:
    """Take back a rule that `rule` gave."""
    name = MODULES.pop(op).op if isinstance(op, type) else op.replace("::", ".")
    if RULES[name].family != USER:
        raise ValueError(f"{name} is surgeon's own")
    del RULES[name]


def _add_module(kind: type, given: ModuleRule) -> None:
    letters = {x for terms in _parsed(given.text).inputs for t in terms for x in t.letters}
    for attribute in given.sizes:
        unknown = set(given.factors(attribute)) - letters
        if unknown or not given.factors(attribute):
            raise ValueError(
                f"'{given.sizes[attribute]}' of {attribute} is no factor of '{given.text}'"
            )

    def choose(node: Node) -> Form:
        return Form(
            given.text, node.target.sizes, _counted(node, tuple(range(len(node.args))), given.text)
        )

    if kind not in MODULES and given.op in RULES:  # a class that was defined anew, as notebooks do
        for old in [k for k, r in MODULES.items() if r.op == given.op]:
            forget(old)
    _add(Rule(given.op, USER, (given.text,), choose=choose))
    MODULES[kind] = given


def _parsed(text: str) -> Any:
    from surgeon.rules.notation import parse

    return parse(text)


def _check_notation(text: str) -> None:
    notation = _parsed(text)
    given = {x for terms in notation.inputs for t in terms for x in t.letters}
    if notation.kept - given:
        made = ", ".join(sorted(notation.kept - given))
        raise ValueError(f"factor {made} of '{text}' stands in an output and in no input")


def _counted(node: Node, at: tuple[int, ...], text: str) -> tuple[int, ...]:
    """The operands' places; BadInput where the rule speaks of another number of them."""
    count = len(_parsed(text).inputs)
    if len(at) != count:
        shapes = ", ".join(str(v) for v in node.inputs)
        raise BadInput(
            f"{node.op} has {len(at)} tensors ({shapes}), its rule '{text}' {count}",
            "write an operand for each tensor argument, then for each tensor of a module's own (state=)",
        )
    return at
