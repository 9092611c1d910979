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
from benchmarks.families import build, classifier, detects, lesson

Facts = dict[str, Any]


def surgeon_stages(name: str) -> Iterator[Facts]:
    """surgeon at ratio 0.5 without options."""
    from surgeon.pipeline.proven import checked

    _import_early()
    model, inputs = build(name)
    yield {"loaded": True, "parameters": _count(model)}
    made: list[Any] = []

    def cut() -> Facts:
        (traced, plan, done), cost = timed(lambda: _cut(model, inputs))
        made.extend((traced, plan, done))
        return {"cut": True, **_way(model, done), **cost}

    yield _tried("cut", cut)
    if not made:
        return
    traced, plan, done = made
    yield _tried("trace", lambda: _reached(traced))
    slim = [done.model]

    def check() -> Facts:
        found, proof = checked(model, traced, done, plan)
        slim[0] = found.model
        return {"proven": True, "error": proof.error, **_way(model, found)}

    yield _tried("check", check)
    yield _tried("train", lambda: _trains(name, slim[0], inputs))
    yield _tried("export", lambda: _exported(name, slim[0], inputs))


def _cut(model: nn.Module, inputs: Any) -> tuple[Any, Any, Any]:
    """What `shrink` does up to the oracle."""
    import surgeon
    from surgeon.pipeline.asked import asked
    from surgeon.pipeline.followed import followed
    from surgeon.pipeline.proposed import proposed
    from surgeon.pipeline.proven import carried_out
    from surgeon.pipeline.steps import Steps
    from surgeon.trace.inputs import Inputs

    given, run = Inputs.of(inputs), Steps(None)
    wanted = asked(0.5, {})

    def tried(traced: Any) -> tuple[Any, Any, Any]:
        proposal = proposed(traced, given, wanted, None, run)
        done, ran = run("cut", lambda: carried_out(traced, given, proposal.plan))
        return ran, proposal.plan, done

    traced = run("trace and couple", lambda: surgeon.trace(model, given))
    return followed(traced, tried, wanted.request)


def _way(model: nn.Module, done: Any) -> Facts:
    return {"way": done.way, "why": done.why, "removed": 1 - _count(done.model) / _count(model)}


def torch_pruning_stages(name: str) -> Iterator[Facts]:
    """torch-pruning at ratio 0.5, called as its examples do."""
    import copy

    from benchmarks import peer

    model, inputs = build(name, batch=1)
    peer.ready(model)
    original = copy.deepcopy(model)
    ignored = classifier(name, model, inputs)
    yield {"loaded": True, "parameters": _count(model)}
    pruned = peer.Pruned(model, inputs, ignored)
    facts = _tried("cut", lambda: {"cut": True, **timed(pruned.run)[1]})
    sizes = {"removed": 1 - _count(model) / _count(original), "share": _shrunk(original, model)}
    yield {"traced": pruned.traced, **facts, **(sizes if "cut" in facts else {})}
    if "cut" not in facts:
        return
    yield (ran := _tried("forward", lambda: _runs(model, inputs)))
    if "runs" not in ran:
        return
    yield _tried("check", lambda: peer.masked_check(original, model, inputs))
    yield _tried("train", lambda: _trains(name, model, inputs))
    yield _tried("export", lambda: _exported(name, model, inputs))


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


def _reached(traced: Any) -> Facts:
    """Share of parameters in groups that may be cut, and what holds the rest."""
    from surgeon.report.reach import reach

    found = reach(traced.coupling)
    held = [{"why": h.why, "share": h.share, "states": h.states[:2]} for h in found.held[:6]]
    return {"traced": True, "share": found.share, "held": held, "unknown": list(traced.unknown)}


def _shrunk(original: nn.Module, slim: nn.Module) -> float:
    """Share of parameters in tensors that lost something: what a tool that tells no reasons can cut."""
    after = {name: p.shape for name, p in slim.named_parameters()}
    before = dict(original.named_parameters())
    return sum(p.numel() for n, p in before.items() if after.get(n) != p.shape) / _count(original)


def _runs(model: nn.Module, inputs: Any) -> Facts:
    with torch.no_grad():
        _call(model, inputs)
    return {"runs": True}


def _trains(name: str, model: nn.Module, inputs: Any) -> Facts:
    """One SGD step on a random loss: finite, and running statistics move where the original's do."""
    inputs = lesson(name, inputs)
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
    try:
        before = {n: b.clone() for n, b in model.named_buffers() if n.endswith("running_mean")}
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        outputs = [t for t in tree_leaves(_call(model, inputs)) if _learns(t)]
        loss = sum((t.float() * torch.randn(t.shape, generator=generator)).mean() for t in outputs)
        assert isinstance(loss, Tensor), "no output carries a gradient"
        loss.backward()
        optimizer.step()
    finally:
        model.eval()
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    after = dict(model.named_buffers())
    moved = sum(not torch.equal(b, after[n]) for n, b in before.items())
    return (loss.item() if finite else math.nan), moved, len(before)


def _learns(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.requires_grad


def _exported(name: str, model: nn.Module, inputs: Any) -> Facts:
    """The file's error; 'nothing to compare' where every output is empty, as a detector's that finds nothing, and no result inside was compared."""
    import surgeon

    if detects(name):
        # half of random weights find nothing, and training would have them find something
        from models.detectors import spread

        spread(model, inputs)
    with torch.no_grad():
        empty = not any(
            t.numel() for t in tree_leaves(_call(model, inputs)) if isinstance(t, Tensor)
        )
    with tempfile.TemporaryDirectory() as folder:
        file = surgeon.export_onnx(model, Path(folder) / "slim.onnx", inputs)
    notes = {"onnx notes": list(file.notes)}
    if empty and not file.inside:
        return {"written": True, "nothing to compare": "all outputs are empty", **notes}
    return {"exported": True, "onnx error": file.worst_error, **notes}


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
