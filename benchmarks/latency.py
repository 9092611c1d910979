"""The same measured latency, 0.5x: what is left of a network when surgeon is told the limit, and when a ratio is searched.

    python -m benchmarks.latency --results FILE [ROW ...]
    python -m benchmarks.latency --table FILE

ResNet-56 trained on CIFAR-10 (top-1 on its test images) and mobilenet_v2 with random weights (error of the outputs on
noise, of their variance), ONNX Runtime, one thread. Nothing is trained. Rows:

- surgeon: `shrink(max_latency="0.5x")` with images of the train split (without labels), and without, by l2, after which
  batch norms are recalibrated on these images;
- surgeon's own --max-flops, with the same images, at the share of FLOPs that comes nearest below the limit;
- torch-pruning, local and global, round_to 1 and 8, at the ratio that comes nearest below the limit, and then its batch
  norms recalibrated on the same images.

Shares and ratios are found by bisection on measured latency; every candidate is exported and timed interleaved with the
original. Where no candidate is below the limit, the row says so. All rows are timed again at the end, interleaved with
the original, by the same budget. Importance kept: of every batch norm's layer the share of its filters' L2 norms that is
still there, averaged over layers.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks import cifar, peer_cifar
from benchmarks.results import read
from surgeon.measure.bench import made, timed
from surgeon.measure.latency import Budget
from surgeon.measure.target import Target
from surgeon.trace.inputs import Inputs

LIMIT = 0.5
IMAGES = 512
_STEPS = 6  # of a bisection
_QUICK, _FULL = Budget(min_s=1.0, max_s=8.0), Budget()
Cut = Callable[[float], nn.Module]


@dataclass
class Case:
    """A network, what it is cut on, and how well a cut one does."""

    name: str
    model: nn.Module
    peer: nn.Module  # the same function, in a form that torch-pruning can cut
    images: Tensor
    score: Callable[[nn.Module], float]
    scored: str

    @property
    def one(self) -> Tensor:
        """One example."""
        return self.images[:1]


def cases() -> Iterator[Case]:
    """Both networks."""
    model, test = cifar.dense(56), cifar.test_images()
    images = cifar.train_images(IMAGES, 0)
    yield Case(
        "ResNet-56", model, peer_cifar.convolved(model), images, lambda m: cifar.top1(m, *test), "top-1"
    )  # fmt: skip
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2(weights=None)
    noise = torch.randn(96, 3, 224, 224)
    net = peer_cifar.recalibrated(_uneven(net), noise[:32])
    seen, unseen = noise[:64], noise[64:]
    with torch.no_grad():
        wanted = net(unseen)

    def error(slim: nn.Module) -> float:
        with torch.no_grad():
            return float((slim(unseen) - wanted).pow(2).mean() / wanted.var(0).mean())

    yield Case("mobilenet_v2", net, net, seen, error, "output error")


@torch.no_grad()
def _uneven(model: nn.Module) -> nn.Module:
    """Filters of different importance, as training leaves them: scales drawn log-normally."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.trunc_normal_(module.weight, 0.0, 1.0).exp_()
    return model


# --- ways to cut -------------------------------------------------------------------------------


def ways(case: Case) -> dict[str, Callable[[Path], tuple[nn.Module | None, str]]]:
    """By name: a function that gives the network, and how it was asked for."""
    data = list(case.images.split(32))
    found: dict[str, Callable[[Path], tuple[nn.Module | None, str]]] = {
        "surgeon --max-latency, with data": lambda _: _ours(case, data),
        "surgeon --max-latency, l2, recalibrated": lambda _: _recalibrated(case, _ours(case, None)),
        "surgeon --max-flops, with data": lambda folder: _searched(
            case, lambda share: _by_flops(case, share, data), folder, "FLOPs"
        ),
    }
    for scope in peer_cifar.SCOPES:
        for round_to in (1, 8):
            found[f"torch-pruning {scope}, round_to {round_to}"] = _theirs(case, scope, round_to)
    return found


def _ours(case: Case, data: Any) -> tuple[nn.Module, str]:
    import surgeon

    options: dict[str, Any] = {"data": data} if data else {}
    done = surgeon.shrink(case.model, case.one, max_latency=f"{LIMIT}x", **options)
    return done.model, f"{len(done.limited.rounds)} rounds"


def _recalibrated(case: Case, cut: tuple[nn.Module, str]) -> tuple[nn.Module, str]:
    return peer_cifar.recalibrated(cut[0], case.images), cut[1]


def _by_flops(case: Case, share: float, data: Any) -> nn.Module:
    import surgeon

    limit = f"{share:.4f}x"
    return surgeon.shrink(case.model, case.one, max_flops=limit, data=data, measure=False).model


def _theirs(
    case: Case, scope: str, round_to: int
) -> Callable[[Path], tuple[nn.Module | None, str]]:
    def cut(folder: Path) -> tuple[nn.Module | None, str]:
        slim, how = _searched(case, lambda kept: _peer_cut(case, scope, round_to, 1 - kept), folder, "1 - ratio")  # fmt: skip
        return (None if slim is None else peer_cifar.recalibrated(slim, case.images)), how

    return cut


def _peer_cut(case: Case, scope: str, round_to: int, ratio: float) -> nn.Module:
    import torch_pruning as tp

    model = copy.deepcopy(case.peer)
    classifier = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    tp.pruner.BasePruner(
        model,
        case.one,
        importance=tp.importance.GroupMagnitudeImportance(),
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=[classifier],
    ).step()
    return model.eval()


def _searched(case: Case, cut: Cut, folder: Path, what: str) -> tuple[nn.Module | None, str]:
    """The largest share whose measured latency is within the limit, of those that a bisection tries."""
    best, low, high = None, 0.0, 1.0
    for _ in range(_STEPS):
        share = (low + high) / 2
        slim = cut(share)
        if _ratio(case, slim, folder, _QUICK).high <= LIMIT:
            best, low = (slim, f"{what} {share:.3f}"), share
        else:
            high = share
    return best or (None, f"no {what} of the {_STEPS} that were tried is within the limit")


# --- what is told of a row ---------------------------------------------------------------------


def _ratio(case: Case, slim: nn.Module, folder: Path, budget: Budget) -> Any:
    inputs, target = Inputs.of(case.one), Target()
    before = folder / "before.onnx"
    if not before.exists():
        made(case.model, inputs, target, before)
    after = made(slim, inputs, target, folder / "after.onnx")
    return timed({"before": before, "after": after}, inputs, target, budget).ratios["after"]


def kept(model: nn.Module, slim: nn.Module) -> float:
    """Importance kept: mean over layers of the share of filters' L2 norms that is still there.

    Which filters stayed is read off the scales of the batch norm behind them: no tool changes these.
    """
    modules, other = list(model.named_modules()), dict(slim.named_modules())
    shares = []
    for (_, conv), (name, norm) in pairwise(modules):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            norms = conv.weight.detach().flatten(1).norm(dim=1)
            stays = torch.isin(norm.weight, other[name].weight)
            assert int(stays.sum()) == len(other[name].weight), f"{name}: scales are not unique"
            shares.append(float(norms[stays].sum() / norms.sum()))
    return sum(shares) / len(shares)


def row(case: Case, name: str, folder: Path) -> dict[str, Any]:
    """One network of one way."""
    from surgeon.measure.count import flops, parameters

    slim, how = ways(case)[name](folder)
    facts: dict[str, Any] = {"how": how}
    if slim is None:
        return {"failed": how}
    ratio = _ratio(case, slim, folder, _FULL)
    return facts | {
        "latency": [ratio.value, ratio.low, ratio.high],
        "flops": flops(slim, case.one).total / flops(case.model, case.one).total,
        "params": parameters(slim) / parameters(case.model),
        "importance": kept(case.model, slim),
        "scored": case.scored,
        "score": case.score(slim),
        "dense": case.score(case.model),
    }


def run(results: Path, only: Sequence[str]) -> None:
    """Every row that is not there yet, one line of JSON each."""
    torch.set_num_threads(1)
    done = {(r["network"], r["tool"]) for r in read(results)}
    wanted = ((case, name) for case in cases() for name in ways(case))
    for case, name in wanted:
        full = f"{case.name}: {name}"
        if (case.name, name) in done or (only and not any(text in full for text in only)):
            continue
        found = {"network": case.name, "tool": name, **_tried(case, name)}
        with results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)


def _tried(case: Case, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return row(case, name, Path(folder))
        except Exception as error:  # noqa: BLE001  a crash of either tool is its row
            return {"failed": f"{type(error).__name__}: {error}"[:200]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, one table a network."""
    lines = []
    for network in dict.fromkeys(r["network"] for r in rows):
        own = [r for r in rows if r["network"] == network]
        told = next((r for r in own if "scored" in r), None)
        scored = told["scored"] if told else "score"
        lines += [f"| {network} | latency | importance kept | {scored} | parameters | FLOPs | found at |", "|---|--:|--:|--:|--:|--:|---|"]  # fmt: skip
        for r in own:
            if "failed" in r:
                lines.append(f"| {r['tool']} | {r['failed']} | | | | | |")
                continue
            value, low, high = r["latency"]
            lines.append(
                f"| {r['tool']} | {value:.3f}x [{low:.3f}, {high:.3f}] | {r['importance']:.1%} | {r['score']:.4g} | "
                f"{r['params']:.2f}x | {r['flops']:.2f}x | {r['how']} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("rows", nargs="*")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.table)))
    elif options.results:
        run(options.results, options.rows)
    else:
        parser.error("give --results or --table")


if __name__ == "__main__":
    main()
