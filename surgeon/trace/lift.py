"""From an exported program to plain ATen calls on named state: no checks, no lifted inputs, no subgraphs.

`torch.export` passes parameters and constants as inputs, guards what it assumed with assert ops,
and packs `torch.no_grad()` regions into subgraphs. A graph that will be cut, trained and moved to
another dtype wants none of that.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from surgeon.errors import BadInput

# Sizes that depend on the batch are computed by these, and results taken apart by getitem.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            "getitem",
            "add",
            "sub",
            "mul",
            "floordiv",
            "truediv",
            "mod",
            "neg",
            "pow",
            "abs",
        )
    },
    **{
        f"operator.{name}": getattr(operator, name)
        for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{
        f"torch.{name}": getattr(torch, name)
        for name in "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sum".split()
    },
}
_KNOWN = frozenset(FUNCTIONS.values())
_CHECKS = ("_assert", "sym_constrain_range")
_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True)
class Slot:
    """The place of tensor number `index` in a structure of inputs or arguments."""

    index: int


@dataclass(frozen=True)
class Lifted:
    """The graph, its inputs as a structure of `Slot`s and constants, and where lifted constants went."""

    graph: fx.Graph
    inputs: Any
    constants: dict[str, str]  # name in the graph -> name in the exported program
    notes: tuple[str, ...]
    sizes: tuple[tuple[int | None, ...], ...]  # of each Slot; None where torch.export left it open


def lift(
    exported: ExportedProgram,
    prefix: str = "",
    loose: Container[str] = frozenset(),
    state: Mapping[str, str] | None = None,
) -> Lifted:
    """The program's graph on `get_attr` nodes named as the state is, `prefix` stripped.

    loose: constants that keep their names, as they are plain attributes of the model. state: constants that are state, by
    its names. Raises BadInput where the graph holds what is not a plain op: control flow, autocast, objects.
    """
    run = _Lifting(exported, prefix, loose, state or {})
    inputs = run.open_inputs()
    values = run.copy(exported.graph_module, run.env)
    notes: list[str] = []
    outputs = plain(run.close(values), notes)
    run.graph.output(outputs)
    _sweep(run.graph)
    run.graph.lint()
    return Lifted(run.graph, inputs, run.constants, tuple(notes), tuple(run.sizes))


def plain(value: Any, notes: list[str]) -> Any:
    """Tuples, lists and dicts only: a dataclass or a mapping becomes a dict, a named tuple a tuple."""
    kind = type(value)
    if isinstance(value, Mapping):
        _note(notes, kind, "dict", exact=kind is dict)
        return {key: plain(item, notes) for key, item in value.items()}
    if isinstance(value, tuple):
        _note(notes, kind, "tuple", exact=kind is tuple)
        return tuple(plain(item, notes) for item in value)
    if isinstance(value, list):
        return [plain(item, notes) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _note(notes, kind, "dict", exact=False)
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(item, notes) for name, item in items}
    return value


def _note(notes: list[str], kind: type, now: str, exact: bool) -> None:
    note = f"output {kind.__name__} is returned as a {now}"
    if not exact and note not in notes:
        notes.append(note)


@dataclass
class _Lifting:
    exported: ExportedProgram
    prefix: str
    loose: Container[str]
    state: Mapping[str, str]
    graph: fx.Graph = field(default_factory=fx.Graph)
    env: dict[fx.Node, Any] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    sizes: list[tuple[int | None, ...]] = field(default_factory=list)

    def open_inputs(self) -> Any:
        """Make the placeholders and state nodes; give the structure of (args, kwargs)."""
        leaves: list[Any] = []
        nodes = [node for node in self.exported.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(nodes, self.exported.graph_signature.input_specs, strict=True):
            if spec.kind in _STATE:
                self.env[node] = self.graph.create_node("get_attr", self._name(spec))
            elif spec.kind is not InputKind.USER_INPUT:
                raise BadInput(f"the exported program takes a {spec.kind.name.lower()} as input")
            elif isinstance(spec.arg, ConstantArgument):
                leaves.append(spec.arg.value)
            else:
                self.env[node] = self.graph.placeholder(node.name)
                leaves.append(Slot(len(self.sizes)))
                self.sizes.append(_size(node.meta.get("val")))
        return pytree.tree_unflatten(leaves, self.exported.call_spec.in_spec)  # type: ignore[arg-type]

    def _name(self, spec: InputSpec) -> str:
        target = spec.target or ""
        name = target.removeprefix(self.prefix)
        if spec.kind is not InputKind.CONSTANT_TENSOR:
            return name
        if target in self.state:
            return self.state[target]
        name = name if name in self.loose else f"_constants.{name}"
        self.constants[name] = target
        return name

    def copy(self, owner: fx.GraphModule, env: dict[fx.Node, Any]) -> Any:
        """Copy the calls of one (sub)graph; give its output as values of the new graph."""
        for node in owner.graph.nodes:
            if node.op == "output":
                return map_arg(node.args[0], env.__getitem__)
            if node.op == "get_attr":
                env[node] = getattr(owner, node.target)
            elif node.op == "call_function" and not _is_check(node.target):
                env[node] = self._call(node, env)
        raise BadInput("the exported program has no output")

    def _call(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        args = tuple(_resolve(arg, env) for arg in node.args)
        if node.target is operator.getitem and isinstance(args[0], tuple | list):
            return args[0][args[1]]  # of a subgraph that was inlined
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._inline(str(node.target), args)
        if not isinstance(node.target, torch._ops.OpOverload) and node.target not in _KNOWN:
            raise BadInput(f"the exported program calls {node.target}, which is no tensor op")
        copied = self.graph.node_copy(node, env.__getitem__)
        copied.meta = {"module": _module_path(node, self.prefix)}
        _fix_dtype(copied, node.meta.get("val"))
        return copied

    def _inline(self, name: str, args: tuple[Any, ...]) -> Any:
        """The nodes of a `no_grad` or switched-off autocast region, without the region."""
        if name == "wrap_with_set_grad_enabled":
            grad, body, inputs = args[0], args[1], args[2:]
        elif name == "wrap_with_autocast" and not args[2]:
            grad, body, inputs = True, args[4], args[5:]
        else:
            raise BadInput(
                f"forward uses {name}, which cannot be stored as plain ops",
                "take autocast and data-dependent control flow out of forward",
            )
        placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
        values = self.copy(body, dict(zip(placeholders, inputs, strict=True)))
        if grad:
            return values
        # The results carried no gradient in the original, and must not here.
        result = next(node for node in body.graph.nodes if node.op == "output").args[0]
        pairs = zip(values, result, strict=True)
        return tuple(self._detached(value, origin) for value, origin in pairs)

    def _detached(self, value: Any, origin: Any) -> Any:
        is_tensor = isinstance(origin, fx.Node) and isinstance(origin.meta.get("val"), torch.Tensor)
        if not is_tensor:
            return value
        detached = self.graph.call_function(torch.ops.aten.detach.default, (value,))
        detached.meta = {"module": value.meta.get("module", "")}
        return detached

    def close(self, values: Iterable[Any]) -> Any:
        """Write mutated state back; give the output structure with nodes as its leaves."""
        leaves: list[Any] = []
        for value, spec in zip(values, self.exported.graph_signature.output_specs, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                leaves.append(value)
            elif spec.kind.name.endswith("MUTATION"):
                self.graph.call_function(torch.ops.aten.copy_.default, (self._target(spec), value))
            else:
                raise BadInput(f"the exported program returns a {spec.kind.name.lower()}")
        return pytree.tree_unflatten(leaves, self.exported.call_spec.out_spec)  # type: ignore[arg-type]

    def _target(self, spec: Any) -> fx.Node:
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            return next(new for old, new in self.env.items() if old.name == spec.target)
        return self.graph.create_node("get_attr", spec.target.removeprefix(self.prefix))


def _size(value: Any) -> tuple[int | None, ...]:
    shape = value.shape if isinstance(value, torch.Tensor) else ()
    return tuple(n if type(n) is int else None for n in shape)


def _resolve(arg: Any, env: dict[fx.Node, Any]) -> Any:
    return env.get(arg) if isinstance(arg, fx.Node) else arg


def _is_check(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.name.split("::")[
        1
    ].startswith(_CHECKS)


def _module_path(node: fx.Node, prefix: str) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    known = path.startswith(prefix) and not path.startswith("_empty")
    return path.removeprefix(prefix) if known else ""


def _fix_dtype(node: fx.Node, value: Any) -> None:
    """Say the dtype of zeros(n) and its like, which would follow the process's default."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not isinstance(value, torch.Tensor) or node.kwargs.get("dtype"):
        return
    names = [arg.name for arg in schema.arguments if arg.kwarg_only]
    if "dtype" in names and not any("Tensor" in str(arg.type) for arg in schema.arguments):
        node.update_kwarg("dtype", value.dtype)


def _sweep(graph: fx.Graph) -> None:
    """Drop what nothing uses: the sizes that only checks looked at, state that is never read, results taken off their memory."""
    read: set[fx.Node] = set()  # behind the node
    for node in reversed(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        mutates = schema is not None and schema.is_mutable and not _frees(node, read)
        if node.op in ("get_attr", "call_function") and not node.users and not mutates:
            graph.erase_node(node)
        else:
            read.update(node.all_input_nodes)


def _frees(node: fx.Node, read: Container[fx.Node]) -> bool:
    """Whether it empties a result that nothing reads any more: a program lets go of those by itself."""
    freed = node.target is torch.ops.aten.set_.default and node.args[0]
    return isinstance(freed, fx.Node) and freed.op == "call_function" and freed not in read
