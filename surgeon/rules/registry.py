"""One dict of rules: op name -> what it means for channels. Twice raises; a missing one is a value.

A *factor rule* is a line of notation (or a function of the node that gives one); a *movement* is a
function on the algebra. An in-place op ('aten.relu_') has the rule of its plain form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from surgeon.axes import Algebra, Dims
from surgeon.graph import Node, Value


@dataclass(frozen=True)
class Form:
    """A line of notation with the sizes of factors that no dimension shows by itself.

    `at` says which positional arguments the operands are, where they are not the first ones.
    """

    text: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    at: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Site:
    """A node being coupled: what a movement sees."""

    algebra: Algebra
    node: Node
    dims: Callable[[Value], Dims]

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
    for name in (op, packet, packet.rstrip("_")):
        if name in RULES:
            return RULES[name]
    return None


def rule(op: str, text: str) -> None:
    """Give an op its rule: `surgeon.rule("mylib::scale", "n c *, c -> n c *")`.

    op: 'namespace::name', as registered with torch.library. text: factor notation, an operand a
    tensor argument in order, whatever stands between them. Raises ValueError where the op has a rule
    or the text cannot be read, and when the op is met with another number of tensor arguments.
    """
    from surgeon.rules.notation import parse

    notation = parse(text)
    given = {x for terms in notation.inputs for t in terms for x in t.letters}
    if notation.kept - given:
        made = ", ".join(sorted(notation.kept - given))
        raise ValueError(f"factor {made} of '{text}' stands in an output and in no input")

    def choose(node: Node) -> Form:
        arguments = node.target._schema.arguments
        at = tuple(i for i, a in enumerate(arguments) if "Tensor" in str(a.type))
        if len(at) != len(notation.inputs):
            raise ValueError(
                f"{op} takes {len(at)} tensors, its rule '{text}' {len(notation.inputs)}"
            )
        return Form(text, at=at)

    _add(Rule(op.replace("::", "."), "user", (text,), choose=choose))
