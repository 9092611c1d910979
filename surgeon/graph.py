"""A network as values and nodes: what one forward did, in order.

Nothing here computes. A `Value` is a tensor (its shape and, where it has one, its state_dict
name); a `Node` is one op with the values in place of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SEEING = frozenset({"data_dependent_output", "dynamic_output_shape"})  # torch's tags of ops
_MASKS = frozenset({"b1", "u8"})


@dataclass(eq=False, slots=True)
class Value:
    """One tensor of the network. `state` holds its state_dict names (two where it is tied)."""

    index: int
    shape: tuple[int, ...]
    dtype: str
    state: tuple[str, ...] = ()
    constant: Any = None  # the tensor itself, where it is known and is an index or a mask
    stride: tuple[int, ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether its elements are real or complex: no index, no mask."""
        return self.dtype != "b1" and self.dtype[0] not in "iu"

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(eq=False, slots=True)
class Node:
    """One op: `args` and `kwargs` hold `Value`s where tensors were, nested as the op takes them."""

    index: int
    op: str  # 'aten.convolution.default'
    target: Any  # the op itself
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value | None, ...]
    module: str  # path of the innermost module whose forward ran it
    source: str  # 'net.py:41'

    def arg(self, position: int, default: Any = None) -> Any:
        """Positional argument, or its default where the call left it out."""
        return self.args[position] if position < len(self.args) else default

    @property
    def inputs(self) -> list[Value]:
        """Every tensor argument, in order."""
        found: list[Value] = []
        for arg in (*self.args, *self.kwargs.values()):
            if isinstance(arg, Value):
                found.append(arg)
            elif isinstance(arg, (list, tuple)):
                found.extend(_values(arg))
        return found

    @property
    def writes(self) -> bool:
        """Whether it changes a tensor, which others may be views of."""
        schema = getattr(self.target, "_schema", None)
        return schema is not None and schema.is_mutable

    @property
    def sees(self) -> bool:
        """Whether it tells Python a number of its data, makes as many elements as they say, or hands them to other code."""
        if self.target is None:
            return True
        if self.op == "aten.index.Tensor":  # torch says so of all of them, and means those by masks
            return any(v.dtype in _MASKS for v in self.inputs[1:])
        return any(tag.name in _SEEING for tag in getattr(self.target, "tags", ()))

    @property
    def owners(self) -> Iterator[str]:
        """Paths of the module that ran it and of all that hold that one, innermost first: 'a.b', 'a', ''."""
        path = self.module
        while path:
            yield path
            path = path.rpartition(".")[0]
        yield ""

    @property
    def where(self) -> str:
        """'layer1.0 (resnet.py:102)'; of the outermost forward 'the model itself (net.py:41)'."""
        return f"{self.module or 'the model itself'} ({self.source})"

    def describe(self) -> str:
        """'aten.add.Tensor at layer1.0 (resnet.py:102)  f32[2,64,56,56], ... -> f32[2,64,56,56]'"""
        ins = ", ".join(str(v) for v in self.inputs)
        outs = ", ".join(str(v) for v in self.outputs if v is not None)
        place = f" at {self.module}" if self.module else ""
        return f"{self.op}{place} ({self.source})  {ins} -> {outs}"


@dataclass(frozen=True)
class Reading:
    """Where a forward reads a number into Python: the spot in its code, and how often it did there before in the same run."""

    spot: str  # 'net.py:41+26': the line, and the instruction
    nth: int = 0

    @property
    def line(self) -> str:
        """'net.py:41'."""
        return self.spot.partition("+")[0]


@dataclass(frozen=True)
class Forced:
    """A number that is read, and that is another one for once."""

    at: Reading
    number: bool | int | float


Path = tuple[Forced, ...]  # the numbers of one run, in the order in which they are met


@dataclass
class Graph:
    """Values and nodes in the order of execution. `state` maps state_dict names to values, and those of tensors that are
    plain attributes of modules.

    Where training runs or joins layers that eval mode does not, the nodes from `training` on are those of
    a forward in train mode, over the same state.
    """

    nodes: list[Node] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: tuple[Value, ...] = ()  # of the last run
    given: set[Value] = field(default_factory=set)  # inputs of every run: of all paths
    outputs: tuple[Value, ...] = ()
    places: dict[Value, str] = field(default_factory=dict)  # 'logits': where an output is found
    state: dict[str, Value] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()  # the names in `state` that are parameters
    buffers: frozenset[str] = frozenset()  # those of buffers that a state dict holds
    loose: frozenset[str] = frozenset()  # those of plain attributes, which no state dict has
    on_meta: bool = True
    fixed: Mapping[tuple[str, int], str] = field(
        default_factory=dict
    )  # state dims that must stay: why
    own: int | None = None  # nodes of the run on the inputs as given, where other paths follow them
    ends: tuple[Value, ...] = ()  # outputs of the other paths
    turns: tuple[Path, ...] = ()  # numbers that led to some of these, in order
    dead_ends: tuple[Path, ...] = ()  # numbers with which the forward fails
    reads: Path = ()  # the truths and real numbers that the run on the inputs as given read, where data decide them
    unvalued: frozenset[str] = (
        frozenset()
    )  # names in `state` whose values the recording did not have
    listed: bool = False  # whether Python got numbers of the data as a list
    notes: tuple[str, ...] = ()
    training: int | None = None

    @property
    def forward(self) -> list[Node]:
        """The nodes of the forward in eval mode."""
        return self.run[: self.training]

    @property
    def run(self) -> list[Node]:
        """The nodes of one forward, on the inputs as given."""
        return self.nodes if self.own is None else self.nodes[: self.own]

    @property
    def trained(self) -> frozenset[str]:
        """The names in `state` that the forward in train mode alone reads."""
        behind = [] if self.training is None else self.nodes[self.training :]
        read = {v for node in self.forward for v in node.inputs}
        only = {v for node in behind for v in node.inputs} - read
        return frozenset(name for name, value in self.state.items() if value in only)

    @property
    def blind(self) -> bool:
        """Whether no number of the data decides which ops the forward runs, on which sizes: another run would be the same ops."""
        return self.on_meta or not (self.listed or any(node.sees for node in self.run))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters and buffers, by which a network is known: plain attributes come and go with its runs."""
        return {name: v.shape for name, v in self.state.items() if name not in self.loose}

    @property
    def beside(self) -> frozenset[str]:
        """The names of buffers that may have channels: real numbers, more than one (no count of batches)."""
        state = ((n, self.state[n]) for n in self.buffers)
        return frozenset(n for n, v in state if v.is_number and max(v.shape, default=1) > 1)

    @property
    def batch(self) -> int:
        """Extent of the inputs' first dimension, 1 where there is none."""
        return next((v.shape[0] for v in self.inputs if v.shape), 1)


def _values(args: Sequence[Any]) -> Iterator[Value]:
    for arg in args:
        if isinstance(arg, Value):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from _values(arg)
