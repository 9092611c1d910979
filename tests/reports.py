"""Reports for the tests of the page: what the command line would write for a small network, and one of odd names."""

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import surgeon
from surgeon.metrics.overview import overview
from surgeon.report.document import dumps

HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>&quot;'\"{{7*7}}"


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act, self.conv2 = nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.norm(self.conv1(x)))) + x)


class Small(nn.Module):
    """A stem, two blocks of different streams, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding=1), Block(8)
        self.wider, self.two, self.head = nn.Conv2d(8, 16, 1), Block(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.wider(self.one(self.stem(x)))).mean((2, 3)))


class Named(nn.Module):
    """Layers in a dict may have any name that has no dot."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name.replace(".", "_"): nn.Conv2d(3, 8, 1)})
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return self.head(x.mean((2, 3)))


def document(model: nn.Module, x: Any, source: str = "small", **asked: Any) -> dict[str, Any]:
    """report.json of a cut without timing, as it is read from the file."""
    result = surgeon.shrink(model.eval(), x, source=source, measure=False, **asked)
    files = {"slim.pth": 1000, "slim.onnx": 2000, "plan.json": 300}
    about = {"surgeon": "1", "output": "small-slim", "arch": None, "files": files, "metric": None}
    return json.loads(dumps({**about, **result.as_dict()}))


def timing(median: float, wide: float = 0.02) -> dict[str, Any]:
    """A `Timing.as_dict()`."""
    low, high = median * (1 - wide), median * (1 + wide)
    told = {"median_s": median, "low_s": low, "high_s": high, "p90_s": high, "p99_s": None}
    return {**told, "first_s": high, "runs": 100, "outliers": 1, "cpu_share": 1.0,
            "context_switches": 0, "pressure": 0.5}  # fmt: skip


def measured() -> dict[str, Any]:
    """A `BeforeAfter.as_dict()` with a profile."""
    same = {"macs": 900, "runtime": "onnxruntime 1.20", "threads": 1, "zeros": 0, "notes": []}
    before = {"params": 1000, "flops": 1000, "bytes": 4000, "onnx_bytes": 5000, "zipped": 3000,
              "peak_memory": 9000, "latency": timing(2e-3), **same}  # fmt: skip
    after = {"params": 250, "flops": 400, "bytes": 1000, "onnx_bytes": 2000, "zipped": 800,
             "peak_memory": 6000, "latency": timing(1e-3), **same}  # fmt: skip
    before["profile"] = [
        {"layer": "stem", "op": "Conv", "s": 0.0015},
        {"layer": "head", "op": "Gemm", "s": 0.0005},
    ]
    after["profile"] = [
        {"layer": "relu_nchwc", "module": "stem", "op": "Conv", "s": 0.0004},
        {"layer": "node_conv", "module": "stem", "op": "Conv", "s": 0.0002},
        {"layer": "ReorderInput", "module": None, "op": "ReorderInput", "s": 0.0001},
    ]
    ratio = {"value": 0.5, "low": 0.49, "high": 0.515, "verdict": "faster", "rounds": 100}
    return {"before": before, "after": after, "latency_ratio": {"after": ratio}, "notes": []}


@cache
def _small() -> str:
    torch.manual_seed(0)
    found = document(Small(), torch.zeros(2, 3, 8, 8), ratio=0.5)
    told = {"measured": measured(), "metrics": overview(measured(), None), "notes": ["a note"]}
    return json.dumps(found | told)


def small() -> dict[str, Any]:
    """Of `Small` at a ratio of 0.5, with made-up measurements."""
    return json.loads(_small())


def hostile() -> dict[str, Any]:
    """A report in which every text that somebody else wrote is an attack."""
    found = document(Named(HOSTILE), torch.zeros(2, 3, 8, 8), HOSTILE, ratio=0.5)
    found |= {"measured": measured(), "notes": [HOSTILE], "output": HOSTILE, "arch": HOSTILE}
    found["metric"] = {"name": HOSTILE, "before": 1.0, "after": 2.0}
    found["measured"]["after"]["profile"] = [{"layer": HOSTILE, "op": HOSTILE, "s": 0.1}]
    found["request"] |= {"ignore": [HOSTILE], "ratio_for": {HOSTILE: 0.5}}
    found["why"] = found["measured"]["after"]["runtime"] = HOSTILE
    return found
