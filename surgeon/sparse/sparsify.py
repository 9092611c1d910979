"""Masks on a network's weights: for comparison and research. Zeros stay where they are and cost what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from surgeon.errors import BadInput
from surgeon.schedule import ratio_at
from surgeon.score.loss import loss_of
from surgeon.sparse.granularity import pattern_mask, pattern_of, refuse_unknown, spread, units
from surgeon.trace.folding import own_copy
from surgeon.trace.inputs import Inputs

CRITERIA = ("magnitude", "gradient", "random")
SCOPES = ("local", "global")
Loss = Callable[[Any], Tensor]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # weights are [out, in, *kernel]


@dataclass(frozen=True)
class Sparse:
    """Options of `sparsify`.

    ratio: share of the weights that become zero, in [0, 1); N:M says its own. granularity: one of
    `granularity.KINDS`, 'NxM' or 'N:M'. scope: 'local', each layer by itself, or 'global'. criterion:
    'magnitude' |w|, 'gradient' |w * dL/dw| (needs data), or 'random'. step, steps, schedule: this share of
    the ratio. ignore: globs of layers that stay. hooks: masks by torch.nn.utils.prune (weight_orig,
    weight_mask) instead of plain zeros.
    """

    ratio: float = 0.5
    granularity: str = "weight"
    scope: str = "local"
    criterion: str = "magnitude"
    schedule: str = "linear"
    step: int = 1
    steps: int = 1
    ignore: tuple[str, ...] = ()
    hooks: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not 0 <= self.ratio < 1:
            raise BadInput(
                f"ratio {self.ratio!r} is outside [0, 1)", "the share of weights to mask: 0.5"
            )
        for what, word, known in (
            ("scope", self.scope, SCOPES),
            ("criterion", self.criterion, CRITERIA),
        ):
            if word not in known:
                raise BadInput(f"no {what} '{word}'", f"there are {', '.join(known)}")
        ratio_at(self.schedule, self.step, self.steps)
        if pattern_of(self.granularity) is None:
            refuse_unknown(self.granularity)

    @property
    def now(self) -> float:
        """The ratio of this step."""
        return self.ratio * ratio_at(self.schedule, self.step, self.steps)


@dataclass(frozen=True)
class Sparsified:
    """The masked copy, its masks by weight name (1 stays), and layers without such units."""

    model: nn.Module
    masks: Mapping[str, Tensor]
    skipped: tuple[str, ...]

    @property
    def sparsity(self) -> float:
        """Share of zeros among the masked weights."""
        total = sum(m.numel() for m in self.masks.values())
        return 1 - sum(float(m.sum()) for m in self.masks.values()) / max(total, 1)


def sparsify(
    model: nn.Module,
    how: Sparse,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> Sparsified:
    """A copy of `model` with masked weights; the model is not touched.

    data: batches as `Inputs.of` takes them, or what `open_data` gives, for the criterion 'gradient'; loss:
    output -> a number; by default that of the labels where batches have some, else the mean square of the
    outputs. Raises BadInput where data are missing or no layer has such units.
    """
    slim = own_copy(model, {}).eval()
    layers = {
        name: module
        for name, module in slim.named_modules()
        if isinstance(module, LAYERS) and not any(fnmatchcase(name, g) for g in how.ignore)
    }
    scores = _scores(slim, layers, how, data, loss)
    masks, skipped = _masks(layers, scores, how)
    if not masks:
        raise BadInput(
            f"no layer has units of the granularity '{how.granularity}'",
            "weight, row, column, shared-kernel, filter and 2:4 are there for matrices and kernels",
        )
    for name, mask in masks.items():
        prune.custom_from_mask(layers[name], "weight", mask)
        if not how.hooks:
            prune.remove(layers[name], "weight")
    return Sparsified(slim, {f"{n}.weight": m for n, m in masks.items()}, skipped)


def _scores(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    how: Sparse,
    data: Iterable[Any] | None,
    loss: Loss | None,
) -> dict[str, Tensor]:
    # of a layer that is masked already, what the mask is laid on
    weights: dict[str, Tensor] = {n: _own(m, "weight_orig", m.weight) for n, m in layers.items()}
    masked = {n: _own(m, "weight_mask", 1) for n, m in layers.items()}
    if how.criterion == "magnitude":
        return {n: (w * masked[n]).detach().abs() for n, w in weights.items()}
    if how.criterion == "random":
        generator = torch.Generator().manual_seed(how.seed)
        return {n: torch.rand(w.shape, generator=generator).to(w) for n, w in weights.items()}
    if data is None:
        raise BadInput(
            "the criterion 'gradient' needs data",
            "give batches: sparsify(model, how, data=batches)",
        )
    return _gradients(model, weights, data, loss)


def _own(module: nn.Module, name: str, otherwise: Any) -> Any:
    return getattr(module, name, otherwise)


def _gradients(
    model: nn.Module, weights: Mapping[str, Tensor], data: Iterable[Any], own: Loss | None
) -> dict[str, Tensor]:
    """|w * dL/dw|, the gradient summed over all batches."""
    total = {n: torch.zeros_like(w) for n, w in weights.items()}
    wanted = [w for w in weights.values() if w.is_leaf]
    before = [w.requires_grad for w in wanted]
    seen = 0
    with torch.enable_grad():
        for w in wanted:
            w.requires_grad_()
        for batch in data:
            seen += 1
            loss = _loss(model, batch, own)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, grad in zip(weights, found, strict=True):
                total[name] += 0 if grad is None else grad
        for w, flag in zip(wanted, before, strict=True):
            w.requires_grad_(flag)
    if not seen:
        raise BadInput("the data hold no batch", "give at least one batch of inputs")
    return {n: (w * total[n]).detach().abs() for n, w in weights.items()}


def _loss(model: nn.Module, batch: Any, own: Loss | None) -> Tensor:
    """A batch of `open_data` holds inputs and labels; any other is inputs alone."""
    whole = isinstance(getattr(batch, "inputs", None), Inputs)
    out = (batch.inputs if whole else Inputs.of(batch)).run(model)
    labels = batch.labels if whole else None
    if own is not None:
        return own(out)
    return _square(out) if labels is None else loss_of(out, labels, None, torch.Generator())


def _square(output: Any) -> Tensor:
    from surgeon.trace.tensors import output_tensors

    floats = [t for t in output_tensors(output) if t.is_floating_point()]
    return torch.stack([t.square().mean() for t in floats]).sum()


def _masks(
    layers: Mapping[str, nn.Module], scores: Mapping[str, Tensor], how: Sparse
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    pattern = pattern_of(how.granularity)
    if pattern is not None:
        made = {n: pattern_mask(scores[n], scores[n], pattern) for n in layers}
        return _split(made)
    tables = {n: units(scores[n], scores[n], how.granularity) for n in layers}
    real = {n: t for n, t in tables.items() if t is not None}
    fates = _fates(real, {n: scores[n].numel() / t.numel() for n, t in real.items()}, how)
    made = {
        n: spread(scores[n], fates[n], how.granularity).clone() if n in fates else None
        for n in layers
    }
    return _split(made)


def _split(made: Mapping[str, Tensor | None]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    return {n: m for n, m in made.items() if m is not None}, tuple(
        n for n, m in made.items() if m is None
    )


def _fates(
    tables: Mapping[str, Tensor], weights: Mapping[str, float], how: Sparse
) -> dict[str, Tensor]:
    """1 for units that stay. Globally, units compete over layers, each counted with its weights."""
    if how.scope == "local":
        return {n: _lowest_gone(t, t.new_ones(t.numel()), how.now) for n, t in tables.items()}
    if not tables:
        return {}
    flat = torch.cat([t.flatten() for t in tables.values()])
    heavy = torch.cat([t.new_full((t.numel(),), weights[n]) for n, t in tables.items()])
    parts = _lowest_gone(flat, heavy, how.now).split([t.numel() for t in tables.values()])
    return {n: part.reshape(t.shape) for (n, t), part in zip(tables.items(), parts, strict=True)}


def _lowest_gone(scores: Tensor, weight: Tensor, ratio: float) -> Tensor:
    """The units with the lowest scores go, as many as weigh no more than the ratio of all."""
    order = scores.flatten().argsort(stable=True)
    goes = weight[order].double().cumsum(0) <= ratio * float(weight.double().sum()) + 1e-6
    stays = torch.ones_like(scores).flatten()
    stays[order[goes]] = 0
    return stays.reshape(scores.shape)


def faster(how: Sparse) -> str:
    """What these zeros make faster, in a sentence."""
    if pattern_of(how.granularity) == (2, 4):
        return "faster on GPUs with 2:4 sparse tensor cores and kernels that use them; nowhere else"
    if pattern_of(how.granularity) is not None:
        return "no common hardware makes use of this pattern: nothing gets faster"
    if how.granularity in ("filter", "shared-kernel"):
        return "nothing gets faster by itself: dense kernels multiply by zeros; shrink --dead removes whole channels"
    return "nothing gets faster: dense kernels multiply by zeros"
