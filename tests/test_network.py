"""The network of report.json: boxes follow the data, and its numbers are those of the cut network."""

import json
import math

import pytest
import torch
from nets import NETS, Case
from torch import Tensor, nn

import surgeon
from surgeon.errors import OutOfReach, SurgeonError
from surgeon.graph import Graph
from surgeon.report.boxes import boxes, short
from surgeon.report.document import dumps
from surgeon.report.page import page


class Block(nn.Module):
    """A residual block whose last steps are written into its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.second = nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.act(self.norm(self.first(x)))) + x).relu()


class Small(nn.Module):
    """A stem, a residual block, a head, and an offset that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 1), Block(), nn.Linear(8, 4)
        self.offset = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)) + self.offset)


class Again(nn.Module):
    """One layer that runs many times, with a number of its own making beside it."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.cell = times, nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.cell(x) * torch.arange(6).float()
        return x


def found(model: nn.Module, x: object) -> dict:
    return surgeon.shrink(model.eval(), x, ratio=0.5, check=False, measure=False).report["network"]


def test_boxes_are_calls_of_modules_in_order_of_the_data():
    nodes = found(Small(), torch.zeros(2, 3, 8, 8))["nodes"]
    assert [(n["layer"], n["op"], n["from"]) for n in nodes] == [
        ("", "input", []),
        ("stem", "convolution", [0]),
        ("block.first", "convolution", [1]),
        ("block.norm", "batch_norm", [2]),
        ("block.act", "relu", [3]),
        ("block.second", "convolution", [4]),
        ("block", "add, relu", [5, 1]),
        ("", "mean", [6]),
        ("offset", "add", [7]),
        ("head", "linear", [8]),
    ]
    assert [n["layer"] for n in nodes if n.get("output")] == ["head"]


def test_groups_say_what_they_are_made_of_and_why_they_stay():
    net = found(Small(), torch.zeros(2, 3, 8, 8))
    nodes, groups = net["nodes"], {g["name"]: g for g in net["groups"]}
    stem, inner, out = groups["stem"], groups["block.first"], groups["head"]

    def layers(which: list[int]) -> list[str]:
        return [nodes[at]["layer"] for at in which]

    assert (stem["size"], stem["kept"], "why" in stem) == (8, 4, False)
    assert layers(stem["makes"]) == ["stem", "block.second"]
    assert layers(stem["takes"]) == ["block.first", "head"]
    assert layers(stem["along"]) == ["offset"]
    assert (layers(inner["makes"]), layers(inner["along"])) == (["block.first"], ["block.norm"])
    assert out["kept"] == 4 and "model output" in out["why"]
    carried = {n["layer"]: [net["groups"][g]["name"] for g in n.get("groups", [])] for n in nodes}
    assert carried["block"] == ["stem"] and carried["block.act"] == ["block.first"]
    wide = {n["layer"]: (n["shape"], n.get("kept")) for n in nodes}
    assert wide["block"] == ([2, 8, 8, 8], [2, 4, 8, 8])
    assert wide["head"] == ([2, 4], None)
    assert net["layers"][1] == {
        "layer": "block.first", "node": 2, "out": [8, 4], "in": [8, 4], "params": [584, 148],
    }  # fmt: skip


@pytest.mark.parametrize("case", NETS.values(), ids=NETS.keys())
def test_every_network_is_written_down_as_it_was_cut(case: Case):
    model, inputs = case.build(), case.inputs()
    try:
        result = surgeon.shrink(model, inputs, ratio=0.5, check=False, measure=False)
    except OutOfReach:
        pytest.skip("nothing of it may be cut")
    except SurgeonError as error:
        pytest.skip(f"refused: {error.message}")
    net = result.report["network"]
    for at, node in enumerate(net["nodes"]):
        assert all(source < at for source in node["from"])
        assert len(node.get("kept", node["shape"])) == len(node["shape"])
        assert node["op"]
    listed = {g.name: (g.size, g.kept) for g in result.plan.groups}
    for group in net["groups"]:
        assert (group["size"], group["kept"]) == listed.get(
            group["name"], (group["size"], group["size"])
        )
        assert ("why" in group) <= (group["size"] == group["kept"])
    drawn = page(json.loads(dumps(result.report)))
    assert drawn.count("<tr class=") == len(net["nodes"])
    sizes = slim_sizes(model, result.plan.keep)
    for layer in net["layers"]:
        before, after = sizes[layer["layer"]]
        assert layer["params"] == [before, after], layer["layer"]


def slim_sizes(model: nn.Module, keep: dict) -> dict[str, tuple[int, int]]:
    """Parameters of every layer before and after, from the plan alone."""
    out: dict[str, tuple[int, int]] = {}
    names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in names:
            shape = [len(keep.get(name, {}).get(d, range(n))) for d, n in enumerate(tensor.shape)]
            layer = name.rpartition(".")[0] or name
            before, after = out.get(layer, (0, 0))
            out[layer] = before + tensor.numel(), after + math.prod(shape)
    return out


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    return surgeon.trace(model.eval(), x).graph


def test_many_boxes_are_drawn_together_by_a_shorter_path():
    graph = graph_of(Again(40), torch.zeros(2, 6))
    whole = boxes(graph)
    assert len([b for b in whole if b.layer == "cell.0"]) == 40
    few = boxes(graph, many=100)
    assert {b.layer for b in few} == {"", "cell"} and len(few) < len(whole)
    assert all(source < at for at, b in enumerate(few) for source in b.sources)


def test_names_of_ops():
    assert short("aten.native_batch_norm.default") == "batch_norm"
    assert short("aten.relu_.default") == "relu"
    assert short("aten._softmax.default") == "softmax"
    assert short("aten.addmm.default") == "linear"
    assert short("torchvision.nms.default") == "nms"
    assert short("Tensor.numpy") == "numpy"


def test_a_written_list_of_numbers_takes_one_line_and_strings_stay():
    data = {"shape": [2, 3, 8], "said": "[\n 1,\n 2\n]", "of": [{"a": [1.5, -2e-9]}], "none": []}
    text = dumps(data)
    assert json.loads(text) == data
    assert '"shape": [2, 3, 8],' in text and '"a": [1.5, -2e-09]' in text
