"""What one tool does with one network, stage by stage: cut, check, train, export.

Each stage gives plain facts. Seconds and memory are of the way from a model to its cut copy, without imports:
CPU time of the one thread, and the peak of resident memory above the process that holds the model.
"""

from __future__ import annotations

import importlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.cost import timed
from benchmarks.families import build, classifier

Facts = dict[str, Any]


def surgeon_stages(name: str) -> Iterator[Facts]:
    """surgeon at ratio 0.5 without options."""
    import surgeon
    from surgeon.report.reach import reach

    _import_early()
    model, inputs = build(name)
    yield {"loaded": True, "parameters": _count(model)}
    result, cost = timed(
        lambda: surgeon.shrink(model, inputs, ratio=0.5, check=False, measure=False)
    )
    yield {
        "cut": True,
        "way": result.way,
        "why": result.why,
        "removed": 1 - _count(result.model) / _count(model),
        **cost,
    }
    traced = surgeon.trace(model, inputs)
    found = reach(traced.coupling)
    held = [{"why": h.why, "share": h.share, "states": h.states[:2]} for h in found.held[:6]]
    yield {"share": found.share, "held": held, "unknown": list(traced.unknown)}
    yield _tried("check", lambda: _proven(model, result.model, result.plan, traced.inputs))
    yield _tried("train", lambda: _trains(name, result.model, inputs))
    yield _tried("export", lambda: _exported(result.model, inputs))


def torch_pruning_stages(name: str) -> Iterator[Facts]:
    """torch-pruning at ratio 0.5, called as its examples do."""
    import copy

    from benchmarks import peer

    model, inputs = build(name, batch=1)
    peer.tell_apart(model)
    original = copy.deepcopy(model)
    yield {"loaded": True, "parameters": _count(model)}
    _, cost = timed(lambda: peer.prune(model, inputs, classifier(name, model, inputs)))
    yield {"cut": True, "removed": 1 - _count(model) / _count(original), **cost}
    with torch.no_grad():
        _call(model, inputs)
    yield {"runs": True}
    yield _tried("check", lambda: peer.masked_check(original, model, inputs))


STAGES: dict[str, Callable[[str], Iterator[Facts]]] = {
    "surgeon": surgeon_stages,
    "torch-pruning": torch_pruning_stages,
}


def _tried(stage: str, run: Callable[[], Facts]) -> Facts:
    """The facts of a stage, or why there are none: the stages after it are run all the same."""
    start = time.process_time()
    try:
        facts = run()
    except Exception as error:  # noqa: BLE001  any failure is a result
        text = " / ".join(str(error).strip().splitlines()[:3])
        facts = {f"{stage} failed": f"{type(error).__name__}: {text}"[:300]}
    return {**facts, f"{stage} seconds": time.process_time() - start}


def _proven(model: nn.Module, slim: nn.Module, plan: Any, inputs: Any) -> Facts:
    import surgeon

    found = surgeon.check(model, slim, plan, inputs)
    return {"proven": True, "error": found.error}


def _trains(name: str, model: nn.Module, inputs: Any) -> Facts:
    """One SGD step on a random loss: finite, and running statistics move where the original's do."""
    loss, moved, total = _step(model, inputs)
    if moved < total:  # layers that the training forward does not run
        _, own, _ = _step(build(name)[0], inputs)
        total = min(total, own)
    return {
        "trains": math.isfinite(loss) and moved >= total,
        "statistics moved": f"{moved} of {total}",
    }


def _step(model: nn.Module, inputs: Any) -> tuple[float, int, int]:
    model.train()
    before = {n: b.clone() for n, b in model.named_buffers() if n.endswith("running_mean")}
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    outputs = [t for t in tree_leaves(_call(model, inputs)) if _learns(t)]
    loss = sum((t.float() * torch.randn(t.shape, generator=generator)).mean() for t in outputs)
    assert isinstance(loss, Tensor), "no output carries a gradient"
    loss.backward()
    optimizer.step()
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    after = dict(model.named_buffers())
    moved = sum(not torch.equal(b, after[n]) for n, b in before.items())
    model.eval()
    return (loss.item() if finite else math.nan), moved, len(before)


def _learns(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.requires_grad


def _exported(model: nn.Module, inputs: Any) -> Facts:
    import surgeon

    with tempfile.TemporaryDirectory() as folder:
        file = surgeon.export_onnx(model, Path(folder) / "slim.onnx", inputs)
    return {"exported": True, "onnx error": file.worst_error, "onnx notes": list(file.notes)}


def _call(model: nn.Module, inputs: Any) -> Any:
    from surgeon import Inputs

    return Inputs.of(inputs).run(model)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _import_early() -> None:
    """What a program's capture imports when it is first used; imports are not what is timed."""
    for name in ("torch._dynamo", "torch.export", "torch.fx.experimental.symbolic_shapes"):
        importlib.import_module(name)
    for name in ("surgeon.shrink", "surgeon.cut.choose"):
        importlib.import_module(name)
