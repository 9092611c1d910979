"""A program as data: a JSON document of named ops and their arguments, and back.

Reading a document runs nothing from it. Ops come from a list (`allowed.py`), arguments are plain
values or results of earlier nodes, and everything is checked before a Program is made.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from surgeon.errors import BadInput
from surgeon.files.allowed import find_op, op_name
from surgeon.trace.lift import FUNCTIONS, Slot
from surgeon.trace.program import Held, Program

FORMAT, VERSION = "surgeon-program", 1
_DEEPEST = 24  # nesting of a value
_MOST_NODES = 1_000_000
_NODE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_STATE_PART = re.compile(r"[^.\"'\\\x00-\x1f\x7f]{1,200}")
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d{1,3})?")
_FUNCTION_NAMES = {function: name for name, function in FUNCTIONS.items()}
_KINDS = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
)
_DTYPES = {name: getattr(torch, name) for name in _KINDS}
_FORMATS = {
    name: getattr(torch, name)
    for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_LAYOUTS = {"strided": torch.strided}
_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def encode(program: Program) -> dict[str, Any]:
    """The program without its tensors, as a document that JSON can hold.

    `decode` makes it a program again, with `program.tensors()`. Raises BadInput for an op that is
    not on the list.
    """
    held, ties = program.held(), program.ties()
    home = _home({h.name: h.tensor for h in held})
    return {
        "format": FORMAT,
        "version": VERSION,
        "inputs": _write(program.inputs, home),
        "nodes": [_write_node(node, home) for node in program.graph.nodes],
        "state": [_write_state(h, ties.get(h.name)) for h in held],
        "dynamic_batch": program.dynamic_batch,
        "sizes": [list(shape) for shape in program.sizes],
        "notes": list(program.notes),
    }


def decode(doc: Mapping[str, Any], state: Mapping[str, Tensor]) -> Program:
    """The program of `encode`, in eval mode, on these tensors (kept, not copied).

    `state` names every tensor that `program.tensors()` did; of tied names the first is enough.
    Raises BadInput for a document that is not a well-formed program, or state that does not fit it.
    """
    if not isinstance(doc, Mapping) or doc.get("format") != FORMAT:
        raise BadInput("this is not a stored program")
    if doc.get("version") != VERSION:
        raise BadInput(
            f"stored program of version {str(doc.get('version'))[:20]}; this surgeon reads {VERSION}"
        )
    held = _read_state(_get(doc, "state", list), state)
    reading = _Reading(_home(state), frozenset(h.name for h in held))
    nodes = _get(doc, "nodes", list)
    if not 0 < len(nodes) <= _MOST_NODES:
        raise BadInput(f"a program of {len(nodes)} nodes")
    for node in nodes:
        reading.add(node)
    inputs = _read_inputs(reading, doc.get("inputs"))
    if not reading.closed:
        raise BadInput("the program has no output")
    notes = _get(doc, "notes", list)
    if not all(isinstance(note, str) for note in notes):
        raise BadInput("the program's notes are not all text")
    dynamic, sizes = _get(doc, "dynamic_batch", bool), _read_sizes(doc, reading.inputs)
    return Program(reading.graph, held, inputs, notes, dynamic, sizes).eval()


def _get(doc: Any, key: str, kind: type) -> Any:
    value = doc.get(key) if isinstance(doc, Mapping) else None
    if type(value) is not kind:
        raise BadInput(f"the program's {key!r} is missing or not a {kind.__name__}")
    return value


def _home(state: Mapping[str, Tensor]) -> torch.device:
    """The device of the state, which a document calls home."""
    return next((t.device for t in state.values() if isinstance(t, Tensor)), torch.device("cpu"))


# --- writing ---------------------------------------------------------------------------------


def _write_node(node: fx.Node, home: torch.device) -> dict[str, Any]:
    doc: dict[str, Any] = {"name": node.name, "kind": node.op}
    if node.op == "get_attr":
        return {**doc, "state": str(node.target)}
    if node.op == "output":
        return {**doc, "value": _write(node.args[0], home)}
    if node.op == "placeholder":
        return doc
    op = _FUNCTION_NAMES.get(node.target) if callable(node.target) else None  # type: ignore[arg-type]
    doc["op"] = op or op_name(node.target)
    doc["args"] = [_write(arg, home) for arg in node.args]
    if node.kwargs:
        doc["kwargs"] = {key: _write(arg, home) for key, arg in node.kwargs.items()}
    if node.meta.get("module"):
        doc["module"] = node.meta["module"]
    return doc


def _write_state(held: Held, same_as: str | None) -> dict[str, Any]:
    kind = "parameter" if isinstance(held.tensor, nn.Parameter) else "buffer"
    doc: dict[str, Any] = {"name": held.name, "kind": kind}
    if not held.persistent:
        doc["persistent"] = False
    if kind == "parameter" and not held.tensor.requires_grad:
        doc["requires_grad"] = False
    if same_as is not None:
        return {**doc, "same_as": same_as}
    return {**doc, "shape": list(held.tensor.shape), "dtype": _dtype_name(held.tensor.dtype)}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write(value: Any, home: torch.device) -> Any:
    """Plain values as they are, lists as lists, all else as an object of one key, its kind."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.device):
        return {"device": "home" if value == home else str(value)}
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value, lambda item: _write(item, home))
    raise BadInput(f"a stored program cannot hold a {type(value).__name__}")


_Inner = Callable[[Any], Any]
_WRITERS: tuple[tuple[type, Callable[[Any, _Inner], Any]], ...] = (
    (fx.Node, lambda v, inner: {"node": v.name}),
    (Slot, lambda v, inner: {"input": v.index}),
    (tuple, lambda v, inner: {"tuple": [inner(item) for item in v]}),
    (list, lambda v, inner: [inner(item) for item in v]),
    (Mapping, lambda v, inner: {"dict": [[inner(key), inner(item)] for key, item in v.items()]}),
    (slice, lambda v, inner: {"slice": [inner(v.start), inner(v.stop), inner(v.step)]}),
    (complex, lambda v, inner: {"complex": [inner(v.real), inner(v.imag)]}),
    (torch.dtype, lambda v, inner: {"dtype": _dtype_name(v)}),
    (torch.memory_format, lambda v, inner: {"memory_format": str(v).removeprefix("torch.")}),
    (torch.layout, lambda v, inner: {"layout": str(v).removeprefix("torch.")}),
)


# --- reading ---------------------------------------------------------------------------------


@dataclass
class _Reading:
    home: torch.device
    state: frozenset[str]
    graph: fx.Graph = field(default_factory=fx.Graph)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    inputs: int = 0
    closed: bool = False

    def add(self, doc: Any) -> None:
        """One node more, after those it refers to."""
        name, kind = _get(doc, "name", str), _get(doc, "kind", str)
        if not _NODE_NAME.fullmatch(name) or name in self.nodes:
            raise BadInput(f"the node name {name[:100]!r} is taken or is no name")
        if self.closed:
            raise BadInput(f"node {name} comes after the output")
        if kind not in _ADDERS:
            raise BadInput(f"node {name} is of the unknown kind {kind[:100]!r}")
        try:
            self.nodes[name] = _ADDERS[kind](self, doc, name)
        except BadInput as error:
            raise BadInput(f"node {name}: {error.message}") from None

    def input(self, doc: Any, name: str) -> fx.Node:
        self.inputs += 1
        return self.graph.placeholder(name)

    def get_state(self, doc: Any, name: str) -> fx.Node:
        target = _get(doc, "state", str)
        if target not in self.state:
            raise BadInput(f"reads {target[:100]!r}, which is not in the program's state")
        return self.graph.create_node("get_attr", target, name=name)

    def output(self, doc: Any, name: str) -> fx.Node:
        self.closed = True
        return self.graph.output(self.value(doc.get("value")))

    def call(self, doc: Any, name: str) -> fx.Node:
        op = _get(doc, "op", str)
        args = tuple(self.value(arg) for arg in _get(doc, "args", list))
        given = _get(doc, "kwargs", dict) if "kwargs" in doc else {}
        kwargs = {key: self.value(arg) for key, arg in given.items()}
        target = FUNCTIONS[op] if op in FUNCTIONS else find_op(op)
        if isinstance(target, OpOverload):
            _check_arguments(target, args, kwargs)
        elif kwargs or not all(_is_size(arg) for arg in args):
            # Python's own operators repeat strings and lists; sizes are all they are for here.
            raise BadInput(f"{op} takes sizes and results only")
        node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        node.meta["module"] = _get(doc, "module", str) if "module" in doc else ""
        return node

    def value(self, doc: Any, depth: int = 0) -> Any:
        """What `_write` wrote, node references as the nodes themselves."""
        if depth > _DEEPEST:
            raise BadInput(f"a value nested deeper than {_DEEPEST}")
        if doc is None or isinstance(doc, bool | float | str):
            return doc
        if isinstance(doc, int):
            return _checked_int(doc)
        if isinstance(doc, list):
            return [self.value(item, depth + 1) for item in doc]
        if not isinstance(doc, dict) or len(doc) != 1:
            raise BadInput("a value is an object of other than one key")
        ((kind, inner),) = doc.items()
        if kind not in _READERS:
            raise BadInput(f"a value of the unknown kind {str(kind)[:100]!r}")
        return _READERS[kind](self, inner, depth)

    def items(self, doc: Any, depth: int, length: int | None = None) -> list[Any]:
        if not isinstance(doc, list) or (length is not None and len(doc) != length):
            raise BadInput("a malformed tuple, dict or slice")
        return [self.value(item, depth + 1) for item in doc]

    def node(self, doc: Any, depth: int) -> fx.Node:
        if not isinstance(doc, str) or doc not in self.nodes:
            raise BadInput(f"refers to {str(doc)[:100]!r}, which is not an earlier node")
        return self.nodes[doc]

    def pairs(self, doc: Any, depth: int) -> dict[str, Any]:
        pairs = [self.items(pair, depth + 1, 2) for pair in doc] if isinstance(doc, list) else []
        if not isinstance(doc, list) or not all(isinstance(key, str | int) for key, _ in pairs):
            raise BadInput("a dict whose keys are neither text nor numbers")
        return dict(pairs)

    def device(self, doc: Any, depth: int) -> torch.device:
        if doc == "home":
            return self.home
        if not isinstance(doc, str) or not _DEVICE.fullmatch(doc):
            raise BadInput(f"the unknown device {str(doc)[:100]!r}")
        return torch.device(doc)


def _slot(reading: _Reading, doc: Any, depth: int) -> Slot:
    if type(doc) is not int:
        raise BadInput("an input without its number")
    return Slot(doc)


def _complex(reading: _Reading, doc: Any, depth: int) -> complex:
    parts = reading.items(doc, depth, 2)
    if not all(isinstance(part, float) for part in parts):
        raise BadInput("a complex number of other than two floats")
    return complex(*parts)


def _one_of(table: Mapping[str, Any], kind: str) -> Callable[[_Reading, Any, int], Any]:
    def read(reading: _Reading, doc: Any, depth: int) -> Any:
        if not isinstance(doc, str) or doc not in table:
            raise BadInput(f"the unknown {kind} {str(doc)[:100]!r}")
        return table[doc]

    return read


_ADDERS: dict[str, Callable[[_Reading, Any, str], fx.Node]] = {
    "placeholder": _Reading.input,
    "get_attr": _Reading.get_state,
    "call_function": _Reading.call,
    "output": _Reading.output,
}
_READERS: dict[str, Callable[[_Reading, Any, int], Any]] = {
    "node": _Reading.node,
    "input": _slot,
    "tuple": lambda reading, doc, depth: tuple(reading.items(doc, depth)),
    "dict": _Reading.pairs,
    "slice": lambda reading, doc, depth: slice(*reading.items(doc, depth, 3)),
    "complex": _complex,
    "float": _one_of(_NON_FINITE, "float"),
    "dtype": _one_of(_DTYPES, "dtype"),
    "memory_format": _one_of(_FORMATS, "memory format"),
    "layout": _one_of(_LAYOUTS, "layout"),
    "device": _Reading.device,
}


def _checked_int(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise BadInput("a number that does not fit 64 bits")
    return value


def _is_size(arg: Any) -> bool:
    return isinstance(arg, fx.Node | int | float)


def _check_arguments(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The names and the number of arguments; their types are torch's to check when it runs."""
    takes = op._schema.arguments
    positional = [argument.name for argument in takes if not argument.kwarg_only]
    names = {argument.name for argument in takes} - set(positional[: len(args)])
    if len(args) > len(positional) or not names.issuperset(kwargs):
        raise BadInput(f"{op} does not take these arguments")


def _read_inputs(reading: _Reading, doc: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs = reading.value(doc)
    if not isinstance(inputs, tuple) or [type(part) for part in inputs] != [tuple, dict]:
        raise BadInput("the program's inputs are not (arguments, keywords)")
    slots = sorted(_slots(inputs))
    if slots != list(range(reading.inputs)):
        raise BadInput(f"the program's inputs do not name its {reading.inputs} placeholders")
    return inputs


def _read_sizes(doc: Any, count: int) -> list[tuple[int | None, ...]]:
    """The sizes that were captured; documents of older surgeons say nothing of them."""
    sizes = _get(doc, "sizes", list) if "sizes" in doc else []
    shapes = all(isinstance(shape, list) and all(map(_is_extent, shape)) for shape in sizes)
    if not shapes or len(sizes) not in (0, count):
        raise BadInput(f"the program's sizes are not the shapes of its {count} inputs")
    return [tuple(shape) for shape in sizes]


def _is_extent(size: Any) -> bool:
    return size is None or (type(size) is int and 0 <= size < 2**63)


def _slots(template: Any) -> list[int]:
    if isinstance(template, Slot):
        return [template.index]
    if isinstance(template, fx.Node):
        raise BadInput("the program's inputs refer to a node")
    inner = template.values() if isinstance(template, dict) else template
    if isinstance(template, dict | list | tuple):
        return [index for item in inner for index in _slots(item)]
    return []


def _read_state(docs: list[Any], state: Mapping[str, Tensor]) -> list[Held]:
    """The state in the document's order, on the tensors given; ties made again."""
    made: dict[str, Tensor] = {}
    held = []
    for doc in docs:
        name, kind = _get(doc, "name", str), _get(doc, "kind", str)
        if name in made or not all(_STATE_PART.fullmatch(part) for part in name.split(".")):
            raise BadInput(f"the state name {name[:100]!r} is taken or is no name")
        if kind not in ("parameter", "buffer"):
            raise BadInput(f"{name} is neither a parameter nor a buffer")
        made[name] = _tensor(doc, name, kind, state, made)
        held.append(Held(name, made[name], doc.get("persistent", True) is True))
    unknown = [name for name in state if name not in made]
    if unknown:
        raise BadInput(f"the weights hold {unknown[0]}, which the program does not know")
    return held


def _tensor(
    doc: Any, name: str, kind: str, state: Mapping[str, Tensor], made: dict[str, Tensor]
) -> Tensor:
    if "same_as" in doc:
        owner = made.get(_get(doc, "same_as", str))
        if owner is None or isinstance(owner, nn.Parameter) != (kind == "parameter"):
            raise BadInput(f"{name} is tied to what is not an earlier {kind}")
        return owner
    shape, dtype = _get(doc, "shape", list), _get(doc, "dtype", str)
    tensor = state.get(name)
    if not isinstance(tensor, Tensor):
        raise BadInput(f"the weights lack {name}, which the program needs")
    if list(tensor.shape) != shape or _dtype_name(tensor.dtype) != dtype:
        raise BadInput(
            f"{name} is {_dtype_name(tensor.dtype)}{list(tensor.shape)} in the weights"
            f" and {dtype[:20]}{shape[:8]} in the program"
        )
    if kind == "buffer":
        return tensor.detach()
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return nn.Parameter(tensor.detach(), requires_grad=doc.get("requires_grad", True) is True)
