"""Shrink one network, and say what came of it: proven, refused by name, or wrong.

Beside surgeon's oracle a cut is judged by what needs no rule: the cut model holds the kept slices and
nothing else, the same plan gives the same numbers by the other surgery, and where no op mixes channels,
the original with the removed elements zeroed computes what the cut model computes.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nets import tensors
from torch import Tensor, nn

import surgeon
from fuzz.recipe import Recipe, build
from surgeon import CheckFailed, Result, SurgeonError, Unproven
from surgeon.cut.program import cut_program
from surgeon.pipeline.followed import GONE_WRONG, NOT_FOLLOWED
from surgeon.plan import Plan
from surgeon.widths import own_dtype

BUGS = ("report it", "bug in surgeon", "AssertionError", "cannot write this network")


@dataclass(frozen=True)
class Ask:
    """What is asked of surgeon. `which` and `channel` choose a group and a channel of it, modulo what
    there is, for 'remove' (one channel), 'only' (one group) and 'ignore'; limits are 1 - ratio."""

    what: str = "ratio"
    ratio: float = 0.5
    scope: str = "local"
    criterion: str = "l2"
    by: str = "group"
    round_to: int | None = None
    which: int = 0
    channel: int = 0


@dataclass(frozen=True)
class Verdict:
    """kind: 'module' or 'program' (proven), 'refused', or 'wrong'. `why`: of the refusal, of the program,
    or of what is wrong, without names and numbers. `left`: channels left alone, by reason."""

    kind: str
    why: str = ""
    detail: str = ""
    left: Counter[str] = field(default_factory=Counter)
    cut: tuple[int, int] = (0, 0)  # channels in groups that may be cut, channels removed


class Differs(Exception):
    """The second check found another network than the plan's."""


def judge(recipe: Recipe, ask: Ask, deep: bool = False) -> Verdict:
    """The verdict on one network and one request. deep: also the other surgery, ONNX and one training step."""
    model, inputs = build(recipe)
    before, training = {n: t.clone() for n, t in model.state_dict().items()}, model.training
    left: Counter[str] = Counter()
    try:
        groups = surgeon.trace(model, inputs).groups
        left.update({w: n for w, n in _left(groups).items()})
        options = options_of(ask, groups)
        result = surgeon.shrink(model, inputs, measure=False, **options)
        _second(model, result, inputs, recipe.plain)
        if deep:
            _deep(model, result, inputs)
    except Unproven as error:  # nothing can be told of outputs that are no numbers
        kind = "refused" if "every output is NaN" in error.message else "wrong"
        return Verdict(kind, plainly(error.message), str(error), left)
    except CheckFailed as error:
        return Verdict("wrong", "check failed: " + plainly(error.message), str(error), left)
    except SurgeonError as error:
        kind = "wrong" if any(b in str(error) for b in BUGS) else "refused"
        return Verdict(kind, plainly(error.message), str(error), left)
    except Exception as error:  # noqa: BLE001  whatever is raised is a finding
        return Verdict("wrong", plainly(f"{type(error).__name__}: {error}"), str(error), left)
    same = all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    if not same or model.training != training:
        return Verdict("wrong", "the caller's model was changed", "", left)
    if disproved := [x.why for x in result.plan.left if x.why.startswith(GONE_WRONG)]:
        return Verdict("wrong", plainly(disproved[0]), disproved[0], left)
    if unfollowed := [x.why for x in result.plan.left if x.why.startswith(NOT_FOLLOWED)]:
        return Verdict("refused", plainly(unfollowed[0]), unfollowed[0], left)  # in part
    sizes = sum(g.size for g in result.plan.groups), result.plan.removed
    return Verdict(result.way, plainly(result.why or ""), result.why or "", left, sizes)


def options_of(ask: Ask, groups: Sequence[Any]) -> dict[str, Any]:
    """Keyword options of surgeon.shrink for what is asked of these groups."""
    common = {
        "criterion": ask.criterion,
        "by": ask.by,
        "scope": ask.scope,
        "round_to": ask.round_to,
    }
    free = [g for g in groups if g.why_not is None]
    if ask.what in ("max_params", "max_flops"):
        return {ask.what: f"{max(1 - ask.ratio / 2, 0.1):.2f}x", **common}
    if ask.what == "ratio" or not free:
        return {"ratio": ask.ratio, **common}
    group = free[ask.which % len(free)]
    if ask.what == "ignore":
        return {"ratio": ask.ratio, "ignore": [group.name], **common}
    if ask.what == "only":
        return {"ratio_for": {group.name: ask.ratio}, **common}
    member = next((m for m in group.members if m.role == "makes"), group.members[0])
    layer, _, tail = member.state.rpartition(".")
    layer = layer if tail in ("weight", "bias") and layer else member.state
    channel = member.channel[ask.channel % len(member.channel)]
    at = member.at[member.channel == channel].tolist()
    return {"remove": {layer if member.role != "takes" else f"{layer}:in": at}, **common}


def _left(groups: Sequence[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for g in groups:
        found[plainly(g.why_not) if g.why_not else "may be cut"] += g.size
    return found


def plainly(text: str) -> str:
    """A reason without the names, places and numbers of its network."""
    text = text.split("\n")[0]
    text = re.sub(r"nothing can be cut \(.*", "nothing can be cut", text)
    text = re.sub(r", at [^;]*?\([^()]*:\d+\)", "", text)
    text = re.sub(r"\b(?:layers|L__self__|model)\.[\w.:#]+|'[^']*'", "X", text)
    text = re.sub(r"\[[^\[\]]*\]", "[]", re.sub(r"\([^()]*\)", "()", text))
    return re.sub(r"-?\d[\d.,e+-]*", "N", text)[:160]


# --- the second check --------------------------------------------------------------------------


def _second(model: nn.Module, result: Result, inputs: tuple[Tensor, ...], plain: bool) -> None:
    if result.check is None or not result.check.error <= result.check.tolerance:
        raise Differs("no proof was kept")
    again = Plan.from_json(result.plan.to_json())
    _holds_slices(model, result.model, again)
    if plain:
        wide = _wide(inputs)
        want, got = _zeroed(model, again)(*wide), _double(result.model)(*wide)
        _compare(want, got, "zeroed", _tolerance(model, result))


def _holds_slices(model: nn.Module, slim: nn.Module, plan: Plan) -> None:
    """Every parameter and float buffer is the original's, at the indices that the plan keeps."""
    own = _state(model)
    for name, tensor in _state(slim).items():
        if name not in own or name in plan.folds:
            continue
        want = own[name]
        for d, kept in plan.keep.get(name, {}).items():
            want = want.index_select(d, torch.tensor(kept))
        if want.is_floating_point() and not torch.equal(want, tensor):
            raise Differs(f"{name} is not the kept part of the original's")
    missing = set(dict(slim.named_parameters())) ^ set(dict(model.named_parameters()))
    if missing and not any("parametrizations." in name for name in missing):  # these may be folded
        raise Differs(f"parameters come and go: {sorted(missing)}")


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_buffers()), **dict(model.named_parameters())}


def _zeroed(model: nn.Module, plan: Plan) -> nn.Module:
    twin = _double(model)
    with torch.no_grad():
        for name, tensor in _state(twin).items():
            for d, kept in plan.keep.get(name, {}).items():
                gone = torch.ones(tensor.shape[d], dtype=torch.bool)
                gone[list(kept)] = False
                tensor.index_fill_(d, gone.nonzero().flatten(), 0)
    return twin


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double().eval()


def _wide(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.double() if t.is_floating_point() else t for t in inputs)


def _compare(want: Any, got: Any, what: str, tolerance: float = 1e-7) -> None:
    for a, b in zip(tensors(want), tensors(got), strict=True):
        a, b = a.detach(), b.detach()
        spread = max(float(a.max() - a.min()), float(a.abs().max()), 1e-12)
        if a.shape != b.shape or not float((a - b).abs().max()) <= tolerance * spread:
            raise Differs(f"{what}: the cut model computes something else")


def _tolerance(model: nn.Module, result: Result) -> float:
    """Rows that took up a factor are rounded to the weights' own precision."""
    return max(1e-4, 4 * torch.finfo(own_dtype(model)).eps) if result.plan.folds else 1e-7


def _deep(model: nn.Module, result: Result, inputs: tuple[Tensor, ...]) -> None:
    wide = _wide(inputs)
    with torch.no_grad():
        want = _double(result.model)(*wide)
        if result.way == "module":
            other, _ = cut_program(model, inputs, result.plan)
            rounding = max(
                1e-4, 4 * torch.finfo(own_dtype(model)).eps
            )  # of rows that took a factor
            tolerance = rounding if result.plan.folds else 1e-7
            _compare(want, _double(other)(*wide), "the other surgery", tolerance)
        _compare(want, _double(surgeon.apply(result.plan, model, inputs))(*wide), "applied again")
    with tempfile.TemporaryDirectory() as folder:
        surgeon.save(result, Path(folder) / "slim.pth")
        if result.way == "program":
            loaded = surgeon.load(Path(folder) / "slim.pth")
            with torch.no_grad():
                _compare(want, _double(loaded)(*wide), "loaded again")
        surgeon.export_onnx(result.model, Path(folder) / "slim.onnx", inputs)
    _trains(result.model, inputs)


def _trains(slim: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    slim = copy.deepcopy(slim)
    parameters = [p for p in slim.parameters() if p.requires_grad]
    if not parameters:
        return
    sum(t.square().mean() for t in tensors(slim(*inputs)) if t.requires_grad).backward()
    if not all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None):
        raise Differs("gradients are not finite")
