"""A forward's ops -> boxes that people can look at: one a call of a module, in order of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from surgeon.graph import Graph, Node, Value
from surgeon.rules import lookup

MANY = 1500  # more boxes than this are drawn together, by a shorter path
_NAMES = 4  # ops that a box names
_WORDS = {"addmm": "linear", "mm": "matmul", "bmm": "matmul", "safe_softmax": "softmax",
          "max_pool2d_with_indices": "max_pool2d"}  # fmt: skip
_COPIES = ("clone", "copy", "contiguous", "detach", "dropout")  # which say nothing to a reader


@dataclass
class Box:
    """Ops that run one after the other in one module, or around one layer's parameters.

    `layer`: path of the module, or of the layer whose parameters are read; '' is the model itself.
    `sources`: numbers of the boxes whose values it takes.
    """

    layer: str
    path: str
    owner: str | None = None
    nodes: list[Node] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    out: list[Value] = field(default_factory=list)  # what others take of it, or the model gives

    @property
    def op(self) -> str:
        """'convolution', or the first few of several; ops that only move elements where there are no others."""
        every = dict.fromkeys(short(n.op) for n in self.nodes)
        moving = {short(n.op) for n in self.nodes if _moves(n.op)}
        names = [n for n in every if n not in moving and n not in _COPIES] or list(every)
        return ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")


def boxes(graph: Graph, many: int = MANY) -> list[Box]:
    """The eval forward in boxes: first one for each input, then calls in order, at most about `many`.

    What is made of no input and no parameter (positions, constants) is in none.
    """
    depth = max((n.module.count(".") + 1 for n in graph.forward), default=1)
    found = _Packing(graph, depth).boxes
    while len(found) > many and depth > 1:
        depth -= 1
        found = _Packing(graph, depth).boxes
    return found


def short(op: str) -> str:
    """'batch_norm' of 'aten.native_batch_norm.default'; a linear layer's product is 'linear'."""
    words = op.split(".")
    name = (words[1] if len(words) > 1 else op).strip("_").removeprefix("native_")
    return _WORDS.get(name, name)


def owner_of(state: str) -> str:
    """The layer of a tensor: 'layer1.0.conv1' of 'layer1.0.conv1.weight'."""
    return state.rpartition(".")[0] or state


def _moves(op: str) -> bool:
    rule = lookup(op)
    return rule is not None and rule.move is not None


class _Packing:
    """One walk over the ops; `depth` is how much of a path is looked at."""

    def __init__(self, graph: Graph, depth: int) -> None:
        self._graph, self._depth = graph, depth
        self._paths = {self._cut(n.module) for n in graph.forward}
        self._inner = set(_prefixes(self._paths)) | {""}
        self.boxes: list[Box] = []
        self._made: dict[Value, int] = {}
        for value in graph.inputs:
            self._made[value] = len(self.boxes)
            self.boxes.append(Box("", "", out=[value]))
        self._open: Box | None = None
        for node in graph.forward:
            self._put(node)
        self._leaving()

    def _cut(self, path: str) -> str:
        return ".".join(path.split(".")[: self._depth])

    def _put(self, node: Node) -> None:
        owner = self._owner(node)
        taken = [self._made[v] for v in node.inputs if v in self._made]
        if owner is None and not taken and not any(v.state for v in node.inputs):
            return
        path = self._cut(node.module)
        if self._open is None or self._parts(self._open, path, owner, taken):
            self._open = Box(self._named(path, owner), path, owner)
            self.boxes.append(self._open)
        box, number = self._open, len(self.boxes) - 1
        if box.owner is None and owner is not None:
            box.owner, box.layer = owner, self._named(path, owner)
        box.nodes.append(node)
        box.sources += [at for at in taken if at != number and at not in box.sources]
        self._made.update({v: number for v in node.outputs if v is not None})

    def _parts(self, box: Box, path: str, owner: str | None, taken: list[int]) -> bool:
        """Whether this op begins another box: another module, another layer's parameters, or streams that meet."""
        if path != box.path:
            return True
        if owner is not None and owner != box.owner and not (box.owner is None and owner == path):
            return True
        return path in self._inner and any(at != len(self.boxes) - 1 for at in taken)

    def _owner(self, node: Node) -> str | None:
        """The layer whose parameters the op reads; of tied ones the one that runs."""
        names = [v.state for v in node.inputs if self._graph.parameters.intersection(v.state)]
        owners = [self._cut(owner_of(name)) for tied in names for name in tied]
        path = self._cut(node.module)
        return next((o for o in owners if o == path), owners[0] if owners else None)

    def _named(self, path: str, owner: str | None) -> str:
        inside = owner is not None and (not path or owner.startswith(f"{path}."))
        return owner if owner is not None and inside else path

    def _leaving(self) -> None:
        """Which values each box hands on."""
        told = set(self._graph.outputs)
        reads = ((at, v) for at, box in enumerate(self.boxes) for n in box.nodes for v in n.inputs)
        used = {v for at, v in reads if self._made.get(v, at) != at}
        for box in self.boxes:
            made = [v for n in box.nodes for v in n.outputs if v is not None]
            box.out = box.out or [v for v in dict.fromkeys(made) if v in used or v in told]
            box.out = box.out or made[:1]


def _prefixes(paths: set[str]) -> Iterator[str]:
    for path in paths:
        words = path.split(".")
        yield from (".".join(words[:n]) for n in range(1, len(words)))
