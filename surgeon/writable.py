"""Ops that torch's exporter to ONNX writes wrongly or not at all, as ops that it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_STEPS = (
    512  # that are written out: each is a dozen nodes, which take the exporter a tenth of a second
)


def writable(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program; itself where nothing is to be done."""
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    known = ((n, *_OTHERS[str(n.target)]) for n in nodes if str(n.target) in _OTHERS)
    instead = {n.target: other for n, other, must in known if must(n)}
    return program.run_decompositions(instead) if instead else program


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The same attention on four dimensions, what stands before (heads, length, width) as one batch."""
    if q.dim() == 4:
        return NotImplemented  # stays as it is
    lead = q.shape[:-3]
    mask = kwargs.pop("attn_mask", None) if not args else args[0]
    if mask is not None and mask.dim() > 3:
        mask = mask.expand(*lead, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
    q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(q, k, v, mask, *args[1:], **kwargs)
    return out.reshape(*lead, *out.shape[-3:]) if lead else out.squeeze(0)


def _lstm(  # noqa: PLR0913  the arguments are those of the op
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    biased: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """aten::lstm step by step. x: f[T, N, C], states: f[L * D, N, P] and f[L * D, N, H]; ONNX's LSTM has no projection
    of the state from H to P."""
    h0, c0 = states
    x = x.transpose(0, 1) if batch_first else x
    if h0.shape == c0.shape or len(x) * layers * (1 + both) > _STEPS:
        return NotImplemented  # stays as it is
    each = 5 if biased else 3
    last: list[tuple[Tensor, Tensor]] = []
    for _ in range(layers):
        ways = []
        for backward in (False, True)[: 1 + both]:
            at = len(last)
            own = weights[at * each : (at + 1) * each]
            steps, h, c = _direction(x.flip(0) if backward else x, h0[at], c0[at], own)
            ways.append(steps.flip(0) if backward else steps)
            last.append((h, c))
        x = torch.cat(ways, 2)
    out = x.transpose(0, 1) if batch_first else x
    return out, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])


def _direction(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer in one direction. weights: [4 * H, C], [4 * H, P], two biases [4 * H] or none, [P, H]."""
    to_gates, of_state, *biases, project = weights
    inputs = x @ to_gates.T + sum(biases)
    steps = []
    for step in inputs:
        i, f, g, o = (step + h @ of_state.T).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = (o.sigmoid() * c.tanh()) @ project.T
        steps.append(h)
    return torch.stack(steps), h, c


def _experts(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """transformers::grouped_mm_fallback with every row through every expert, all but its own as zeros. x: f[S, C], sorted by
    expert, weights: f[E, C, D], ends: i[E], the row behind an expert's last."""
    rows, first = torch.arange(x.shape[0], device=x.device), torch.zeros_like(ends[:1])
    starts = torch.cat([first, ends[:-1]])
    own = (rows[:, None] >= starts) & (rows[:, None] < ends)
    each = [torch.where(own[:, e, None], x, 0) @ weights[e] for e in range(len(weights))]
    return sum(each[1:], each[0])


def _always(_node: torch.fx.Node) -> bool:
    return True


def _not_four(node: torch.fx.Node) -> bool:
    return node.args[0].meta["val"].dim() != 4  # type: ignore[union-attr]


def _projected(node: torch.fx.Node) -> bool:
    h, c = node.args[1]  # type: ignore[misc]
    return h.meta["val"].shape != c.meta["val"].shape  # type: ignore[union-attr]


_OTHERS: dict[str, tuple[Callable[..., Any], Callable[[torch.fx.Node], bool]]] = {
    "aten.scaled_dot_product_attention.default": (_attention, _not_four),
    "aten.lstm.input": (_lstm, _projected),
    "transformers.grouped_mm_fallback.default": (_experts, _always),
    # of `torch.isfinite(x).all()` in an assertion
    "aten._is_all_true.default": (Tensor.all, _always),
    "aten._is_any_true.default": (Tensor.any, _always),
}
