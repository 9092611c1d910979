"""A program survives being written down, and a document that is no honest program is refused."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import read_back, same
from torch import Tensor, fx, nn

from surgeon.errors import BadInput
from surgeon.files.allowed import find_op
from surgeon.files.codec import decode, encode
from surgeon.trace.program import Held, Program, to_program

torch.set_num_threads(1)

Doc = dict[str, Any]


def test_what_is_read_back_trains():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(1))
    model[0].requires_grad_(False)
    again = read_back(to_program(model, (torch.randn(2, 3, 4, 4),)))
    assert not again.training
    again.train()(torch.randn(2, 3, 4, 4)).sum().backward()
    assert again.get_parameter("0.weight").grad is None
    assert again.get_parameter("1.weight").grad is not None
    assert again.get_buffer("1.num_batches_tracked") == 1


def test_keywords_constants_and_odd_values():
    class Odd(nn.Module):
        def forward(self, pair: list[Tensor], mode: str, *, bias: Tensor) -> dict[str, Any]:
            x = torch.where(pair[0] > 0, pair[1], -math.inf).clamp(max=math.inf)
            x = x.masked_fill(bias > 0, math.nan).to(torch.float64, copy=True)
            x = x.contiguous(memory_format=torch.contiguous_format)
            return {mode: [x, None], "size": (x.shape[0], 2.5, True)}

    a, b, c = torch.randn(3, 2, 4)
    program = to_program(Odd(), ([a, b], "inside"), {"bias": c})
    again = read_back(program)
    ours, theirs = again([a, b], "inside", bias=c), program([a, b], "inside", bias=c)
    assert same(ours["inside"][0], theirs["inside"][0])
    assert ours["size"] == theirs["size"] == (2, 2.5, True)
    assert ours["inside"][1] is None
    with pytest.raises(TypeError, match="made for 'inside'"):
        again([a, b], "outside", bias=c)


def test_a_document_knows_no_device_but_the_states_own():
    class Fresh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + torch.ones(3, device=x.device)

    program = to_program(Fresh(), (torch.randn(2, 3),))
    doc = encode(program)
    assert '{"device": "home"}' in json.dumps(doc)
    state = {name: tensor.to("meta") for name, tensor in program.tensors().items()}
    assert decode(doc, state)(torch.randn(2, 3, device="meta")).device.type == "meta"


class Tied(nn.Module):
    """Enough of everything: a conv, a size, a literal view, a tied weight, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) + self.b(x) + torch.tensor([1.0, 2, 3, 4, 5, 6])
        return x.reshape(x.shape[0] * 2, 3)


@pytest.fixture(scope="module")
def program() -> Program:
    return to_program(Tied(), (torch.randn(2, 4),))


def test_the_first_of_tied_names_is_enough(program: Program):
    state = program.tensors()
    del state["b.weight"]
    again = decode(encode(program), state)
    assert again.ties() == {"b.weight": "a.weight"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("a.weight"), r"the weights lack a\.weight"),
        (lambda s: s.pop("_constants.lifted_tensor_0"), r"the weights lack _constants\.lifted"),
        (
            lambda s: s.update({"a.bias": torch.zeros(5)}),
            r"a\.bias is float32\[5\] in the weights and float32\[6\] in the program",
        ),
        (lambda s: s.update({"a.bias": torch.zeros(6).half()}), r"a\.bias is float16\[6\] in"),
        (lambda s: s.update({"a.bias": [0.0] * 6}), r"the weights lack a\.bias"),
        (lambda s: s.update({"c": torch.zeros(5)}), "the weights hold c, which"),
    ],
)
def test_state_that_does_not_fit(program: Program, change: Callable[[Any], Any], said: str):
    state: dict[str, Any] = program.tensors()
    change(state)
    with pytest.raises(BadInput, match=said):
        decode(encode(program), state)


def call(doc: Doc) -> Doc:
    return next(node for node in doc["nodes"] if node["kind"] == "call_function")


def product(doc: Doc) -> Doc:
    return next(node for node in doc["nodes"] if node.get("op") == "operator.mul")


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


HOSTILE: dict[str, tuple[Callable[[Doc], Any], str]] = {
    "no program": (lambda d: d.update(format="pickle"), "not a stored program"),
    "the future": (lambda d: d.update(version=9), "version 9; this surgeon reads 1"),
    "no nodes": (lambda d: d.pop("nodes"), "'nodes' is missing or not a list"),
    "nodes of text": (lambda d: d.update(nodes="abc"), "'nodes' is missing or not a list"),
    "empty": (lambda d: d.update(nodes=[]), "a program of 0 nodes"),
    "node of text": (lambda d: d.update(nodes=["x"]), "'name' is missing"),
    "no output": (lambda d: d["nodes"].pop(), "has no output"),
    "after the output": (
        lambda d: d["nodes"].append({"name": "late", "kind": "placeholder"}),
        "late comes after the output",
    ),
    "unknown kind": (lambda d: call(d).update(kind="call_module"), "unknown kind 'call_module'"),
    "method call": (lambda d: call(d).update(kind="call_method"), "unknown kind 'call_method'"),
    "code as a name": (lambda d: call(d).update(name="x;import os"), "is taken or is no name"),
    "name twice": (lambda d: call(d).update(name=d["nodes"][0]["name"]), "is taken"),
    "os.system": (lambda d: call(d).update(op="os.system"), "os.system is not among those"),
    "builtin": (lambda d: call(d).update(op="builtins.eval"), "builtins.eval is not among"),
    "file": (lambda d: call(d).update(op="aten::from_file.default"), "from_file.default is not"),
    "storage": (lambda d: call(d).update(op="aten::set_.source_Storage"), "set_.source_Storage"),
    "unchecked": (lambda d: call(d).update(op="aten::_unsafe_index.Tensor"), "is not among"),
    "dunder": (lambda d: call(d).update(op="aten::__class__.__init__"), "is not among"),
    "walk": (lambda d: call(d).update(op="aten::add.Tensor.__call__"), "is not among"),
    "newline": (lambda d: call(d).update(op="aten::add.Tensor\n"), "is not among"),
    "no overload": (lambda d: call(d).update(op="aten::add.Nothing"), "has no op aten::add.Noth"),
    "out": (lambda d: call(d).update(op="aten::add.out"), "has no op aten::add.out"),
    "lists": (lambda d: call(d).update(op="aten::mul.left_t"), "has no op aten::mul.left_t"),
    "op of no text": (lambda d: call(d).update(op=["aten"]), "'op' is missing or not a str"),
    "no arguments": (lambda d: call(d).pop("args"), "'args' is missing"),
    "too many": (lambda d: call(d).update(args=[1] * 40), "does not take these arguments"),
    "keyword": (lambda d: call(d).update(kwargs={"out": 1}), "does not take these arguments"),
    "keyword twice": (
        lambda d: call(d).update(kwargs={"self": 1}),
        "does not take these arguments",
    ),
    "forward reference": (
        lambda d: call(d)["args"].__setitem__(0, {"node": d["nodes"][-2]["name"]}),
        "which is not an earlier node",
    ),
    "own result": (
        lambda d: call(d)["args"].__setitem__(0, {"node": call(d)["name"]}),
        "which is not an earlier node",
    ),
    "reference to a list": (
        lambda d: call(d)["args"].__setitem__(0, {"node": ["x"]}),
        "which is not an earlier node",
    ),
    "unknown value": (
        lambda d: call(d)["args"].__setitem__(0, {"pickle": "gASV"}),
        "unknown kind 'pickle'",
    ),
    "two keys": (
        lambda d: call(d)["args"].__setitem__(0, {"node": "x", "dtype": "int8"}),
        "other than one key",
    ),
    "huge number": (lambda d: call(d)["args"].__setitem__(0, 2**70), "does not fit 64 bits"),
    "deep": (lambda d: call(d)["args"].__setitem__(0, nested(90)), "nested deeper than 24"),
    "attribute as dtype": (
        lambda d: call(d)["args"].__setitem__(0, {"dtype": "load"}),
        "unknown dtype 'load'",
    ),
    "device": (
        lambda d: call(d)["args"].__setitem__(0, {"device": "privateuseone:0"}),
        "unknown device 'privateuseone:0'",
    ),
    "float": (lambda d: call(d)["args"].__setitem__(0, {"float": "1e5"}), "unknown float"),
    "slice": (lambda d: call(d)["args"].__setitem__(0, {"slice": [1]}), "malformed"),
    "text times number": (
        lambda d: product(d).update(args=["A" * 99, 2**40]),
        "operator.mul takes sizes and results only",
    ),
    "unknown state": (
        lambda d: next(n for n in d["nodes"] if n["kind"] == "get_attr").update(state="forward"),
        "reads 'forward', which is not in the program's state",
    ),
    "quotes in a state name": (
        lambda d: d["state"][0].update(name='a"]; import os; x["'),
        "is taken or is no name",
    ),
    "state name twice": (lambda d: d["state"].append(d["state"][0]), "is taken or is no name"),
    "state of a strange kind": (
        lambda d: d["state"][0].update(kind="module"),
        "neither a parameter nor a buffer",
    ),
    "tied to a later name": (
        lambda d: d["state"][0].update(same_as="b.weight"),
        r"a\.weight is tied to what is not an earlier parameter",
    ),
    "inputs missing": (lambda d: d.pop("inputs"), "inputs are not"),
    "inputs a node": (
        lambda d: d.update(inputs={"tuple": [{"tuple": [{"node": "linear"}]}, {"dict": []}]}),
        "refer to a node",
    ),
    "input twice": (
        lambda d: d.update(
            inputs={"tuple": [{"tuple": [{"input": 0}, {"input": 0}]}, {"dict": []}]}
        ),
        "do not name its 1 placeholders",
    ),
    "input without end": (
        lambda d: d.update(inputs={"tuple": [{"tuple": [{"input": 10**9}]}, {"dict": []}]}),
        "do not name its 1 placeholders",
    ),
    "dict of lists": (
        lambda d: d["nodes"][-1].update(value={"dict": [[[1], 2]]}),
        "keys are neither text nor numbers",
    ),
    "notes": (lambda d: d.update(notes=[1]), "notes are not all text"),
    "sizes": (lambda d: d.update(sizes=[[None, -1]]), "sizes are not the shapes"),
    "too few sizes": (lambda d: d.update(sizes=[[], [], [], []]), "sizes are not the shapes"),
    "dynamic": (lambda d: d.update(dynamic_batch=1), "'dynamic_batch' is missing or not a bool"),
}


@pytest.mark.parametrize(("change", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_documents(program: Program, change: Callable[[Doc], Any], said: str):
    doc = copy.deepcopy(encode(program))
    change(doc)
    with pytest.raises(BadInput, match=said):
        decode(doc, program.tensors())


@pytest.mark.parametrize("doc", [None, [], "surgeon-program", 7, {"format": []}])
def test_what_is_no_document(doc: Any):
    with pytest.raises(BadInput, match="not a stored program"):
        decode(doc, {})


@pytest.mark.parametrize("edit", range(300))
def test_a_damaged_document_is_refused_or_read(program: Program, edit: int):
    """One value of the document at a time becomes something else: BadInput, never another error."""
    doc = copy.deepcopy(encode(program))
    places = list(_places(doc))
    holder, key = places[edit * 7 % len(places)]
    holder[key] = [None, -1, "x", [], {}, 1e400, {"node": "x"}, {"tuple": [[]]}][edit % 8]
    try:
        decode(doc, program.tensors())
    except BadInput as error:
        assert error.message


def _places(doc: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of the document, outermost first."""
    keys = doc.keys() if isinstance(doc, dict) else range(len(doc)) if isinstance(doc, list) else ()
    found = [(doc, key) for key in keys]
    return found + [place for key in keys for place in _places(doc[key])]


def test_an_op_off_the_list_is_not_written():
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.from_file.default, ("/dev/null", False, 0))
    graph.output(node)
    with pytest.raises(BadInput, match=r"the op aten::from_file\.default is not among those"):
        encode(Program(graph, [], ((), {})))


def test_an_argument_that_cannot_be_written():
    graph = fx.Graph()
    x = graph.get_attr("x")
    graph.output(graph.call_function(torch.ops.aten.add.Tensor, (x, torch.qint8)))
    for node in graph.nodes:
        if node.op == "call_function":
            node.args = (x, b"bytes")  # type: ignore[assignment]
    with pytest.raises(BadInput, match="cannot hold a bytes"):
        encode(Program(graph, [Held("x", torch.ones(1))], ((), {})))


@pytest.mark.parametrize(
    "op", ["aten::relu_.default", "aten::sym_size.int", "torchvision::nms.default"]
)
def test_ops_on_the_list(op: str):
    assert find_op(op)._schema.name == op.rpartition(".")[0]


def test_sizes_that_would_crash_torch_are_refused_when_it_runs():
    program = to_program(nn.GRU(4, 6), (torch.randn(3, 2, 4),))
    doc, state = encode(program), program.tensors()
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        state[name] = state[name][:4]
        next(entry for entry in doc["state"] if entry["name"] == name)["shape"][0] = 4
    with pytest.raises(BadInput, match=r"sizes given to aten\.gru\.input do not fit"):
        decode(doc, state)(torch.randn(3, 2, 4))
