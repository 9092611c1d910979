"""Blocks made of other blocks: residuals, branches, dense blocks, C2f, U-nets."""

import torch
from torch import Tensor, nn

from fuzz.contract import CONV
from fuzz.recipe import BLOCKS, WIDEST, WIDTHS, Do, Form, Pick, block, fits

OUTER = ("residual", "branches", "dense_block", "c2f", "down_and_up", "plain_block", "head")


def inner(pick: Pick, x: Form) -> tuple[nn.Module, Form] | None:
    """Another block that takes and gives one value of this kind, and the form of what it gives."""
    names = [
        b.name for b in BLOCKS.values() if _one_to_one(b.takes, b.gives, x) and b.name not in OUTER
    ]
    name = pick(tuple(names))
    module = BLOCKS[name].make(pick, x)
    if module is None:
        return None
    try:
        with torch.no_grad():
            out = module.eval()(torch.randn(2, *x.shape))
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return None
    return (module, Form(x.kind, tuple(out.shape[1:]))) if isinstance(out, Tensor) else None


def _one_to_one(takes: tuple[str, ...], gives: str, x: Form) -> bool:
    return len(takes) == 1 and fits(takes[0], x) and gives in ("same", x.kind)


@block("any")
def residual(pick: Pick, x: Form) -> nn.Module | None:
    """x + f(x); brought to x's width by a layer where f gives another."""
    found = inner(pick, x)
    if found is None or found[1].space != x.space or len(found[1].shape) != len(x.shape):
        return None
    module, form = found
    if form.shape == x.shape:
        return Do(lambda t, f: t + f(t), module)
    if x.kind == "map":
        back: nn.Module = CONV[len(x.space)](form.c, x.c, 1)
    else:
        back = nn.Linear(form.c, x.c)
    return Do(lambda t, f, back: t + back(f(t)), module, back)


@block("any")
def branches(pick: Pick, x: Form) -> nn.Module | None:
    """Two blocks of one value, joined."""
    a, b = inner(pick, x), inner(pick, x)
    if a is None or b is None:
        return None
    if a[1].shape == b[1].shape and pick(("cat", "sum")) == "sum":
        return Do(lambda t, f, g: f(t) + g(t), a[0], b[0])
    if a[1].space != b[1].space or a[1].c + b[1].c > WIDEST:
        return None
    return Do(lambda t, f, g: torch.cat([f(t), g(t)], x.dim), a[0], b[0])


@block("map")
def dense_block(pick: Pick, x: Form) -> nn.Module | None:
    """Every layer reads all before it."""
    kind, growth, count = CONV[len(x.space)], pick((1, 2, 4, 5)), pick((2, 3))
    if x.c + growth * count > WIDEST:
        return None
    layers = nn.ModuleList(kind(x.c + i * growth, growth, 1) for i in range(count))

    def forward(t: Tensor, layers: nn.ModuleList) -> Tensor:
        found = [t]
        for layer in layers:
            found.append(layer(torch.cat(found, 1)).relu())
        return torch.cat(found, 1)

    return Do(forward, layers)


@block("map")
def c2f(pick: Pick, x: Form) -> nn.Module:
    """Split in two, the second half goes on, everything is joined (YOLOv8)."""
    kind, half, shortcut = CONV[len(x.space)], pick((2, 3, 4, 6)), pick((True, False))
    how = pick(("chunk", "split", "list"))

    def forward(t: Tensor, one: nn.Module, steps: nn.ModuleList, two: nn.Module) -> Tensor:
        y = one(t)
        parts = list(y.split((half, half), 1) if how == "split" else y.chunk(2, 1))
        for step in steps:
            last = parts[-1]
            parts.append(last + step(last) if shortcut else step(last))
        return two(torch.cat(parts, 1))

    steps = nn.ModuleList(kind(half, half, 3, padding=1) for _ in range(pick((1, 2))))
    two = kind(half * (2 + len(steps)), pick(WIDTHS), 1)
    return Do(forward, kind(x.c, 2 * half, 1), steps, two)


@block("map")
def down_and_up(pick: Pick, x: Form) -> nn.Module | None:
    """A small U: down, up, and beside what came in."""
    if any(n % 2 for n in x.space):
        return None
    kind = CONV[len(x.space)]
    up = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(x.space)]
    wide, back, join = pick(WIDTHS), pick((x.c, *WIDTHS)), pick(("cat", "sum"))
    if join == "sum":
        back = x.c
    if x.c + back > WIDEST:
        return None

    def forward(t: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
        y = up(down(t).relu())
        return t + y if join == "sum" else torch.cat([t, y], 1)

    return Do(forward, kind(x.c, wide, 2, 2), up(wide, back, 2, 2))


@block("map")
def plain_block(pick: Pick, x: Form) -> nn.Module:
    """Convolution, norm, activation."""
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[len(x.space)]
    out = pick(WIDTHS)
    layer = CONV[len(x.space)](x.c, out, 3, padding=1, bias=False)
    return nn.Sequential(layer, norm(out), getattr(nn, pick(("ReLU", "SiLU")))())
