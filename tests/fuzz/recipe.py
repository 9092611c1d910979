"""A drawn network: frozen data that prints as its own repro, and the nn.Module it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from nets import randomise
from torch import Tensor, nn

T = TypeVar("T")
Pick = Callable[[Sequence[Any]], Any]
WIDTHS = (12, 8, 16, 7, 6, 10, 4, 5, 9, 15, 3, 20, 24, 2, 12, 16, 1)
WIDEST = 64


class Illegal(Exception):
    """A recipe that fits no network: a choice that its block does not offer, or shapes that do not meet."""


@dataclass(frozen=True)
class Form:
    """What a value is, and its shape without the batch.

    kinds: 'map' [C, *space], 'tokens' [L, C], 'vector' [C], 'words' [L] of integers below 11.
    """

    kind: str
    shape: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Where the channels are, batch counted."""
        return 2 if self.kind == "tokens" else 1

    @property
    def c(self) -> int:
        """Channels."""
        return self.shape[self.dim - 1]

    @property
    def space(self) -> tuple[int, ...]:
        """All other extents."""
        return self.shape[: self.dim - 1] + self.shape[self.dim :]

    @property
    def rank(self) -> int:
        """Dimensions of the tensor, batch counted."""
        return len(self.shape) + 1

    def axis(self, pick: Pick) -> int:
        """The channel dimension, counted from the left or from the right."""
        return pick((self.dim, self.dim - self.rank))

    def at(self, index: Any) -> tuple[Any, ...]:
        """What to index a tensor with to index its channels."""
        return (*(slice(None),) * self.dim, index)

    def along(self, n: int) -> tuple[int, ...]:
        """A shape of n that broadcasts along the channels."""
        return (n, *(1,) * (self.rank - 1 - self.dim))


@dataclass(frozen=True)
class Block:
    """A kind of layer: the kinds it takes and gives ('any' and 'same': whatever comes).

    `plain`: no op of it mixes channels or contracts them without weights, so that zeroed weights
    alone show what is removed.
    """

    name: str
    takes: tuple[str, ...]
    gives: str
    plain: bool
    make: Callable[..., nn.Module | None]


BLOCKS: dict[str, Block] = {}


def block(takes: str, gives: str = "same", plain: bool = True) -> Callable[[T], T]:
    """Register `make(pick, *forms) -> module or None` under the function's name."""

    def register(make: Any) -> Any:
        name = make.__name__
        if name in BLOCKS:
            raise ValueError(f"two blocks are named {name}")
        BLOCKS[name] = Block(name, tuple(takes.split()), gives, plain, make)
        return make

    return register


class Do(nn.Module):
    """A function of its inputs and of the modules, parameters and buffers that it holds."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for i, part in enumerate(parts):
            if isinstance(part, (nn.Module, nn.Parameter)):
                setattr(self, f"part{i}", part)
            else:
                self.register_buffer(f"part{i}", part)
        self.parts = tuple(f"part{i}" for i in range(len(parts)))

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *(getattr(self, name) for name in self.parts))


def weight(*shape: int) -> nn.Parameter:
    """A parameter whose products neither grow nor fade."""
    fan_in = max(shape[0], 1) if len(shape) > 1 else 1
    return nn.Parameter(torch.randn(shape) / fan_in**0.5)


def divisors(n: int) -> tuple[int, ...]:
    """1 to n, those that divide it."""
    return tuple(k for k in range(1, n + 1) if n % k == 0)


@dataclass(frozen=True)
class Step:
    """One layer: a block, the values it reads (inputs first, then the steps' outputs in order), and what
    it picked. 'again' calls the module of the step that it picked a second time."""

    kind: str
    on: tuple[int, ...] = (0,)
    said: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A network. Every value that nothing reads is an output, in the container that `gives` names.

    `state`: 'eval', 'train', 'frozen' (no gradients), or the name of a dtype.
    """

    inputs: tuple[Form, ...]
    steps: tuple[Step, ...]
    gives: str = "tuple"
    batch: int = 2
    state: str = "eval"

    @property
    def plain(self) -> bool:
        """Whether zeroed weights alone show what is removed."""
        return all(_plain(s) for s in self.steps)


def _plain(step: Step) -> bool:
    named = [step.kind, *(s for s in step.said if isinstance(s, str) and s in BLOCKS)]
    return all(n == "again" or BLOCKS[n].plain for n in named)


class Net(nn.Module):
    """Runs steps one after the other."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.plan: list[tuple[int, tuple[int, ...]]] = []
        self.outputs: tuple[int, ...] = ()
        self.gives = recipe.gives

    def forward(self, *inputs: Tensor) -> Any:
        values = list(inputs)
        for layer, on in self.plan:
            values += _listed(self.layers[layer](*(values[i] for i in on)))
        out = [values[i] for i in self.outputs]
        if self.gives == "dict":
            return {f"out{i}": t for i, t in enumerate(out)}
        return out[0] if len(out) == 1 else tuple(out) if self.gives == "tuple" else out


def _listed(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


class Growing:
    """A network as it grows, step by step, on real tensors: shapes are what the layers give."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = replace(recipe, steps=())
        self.net = Net(recipe)
        self.forms = list(recipe.inputs)
        self.values = [_sample(f, recipe.batch, i) for i, f in enumerate(recipe.inputs)]
        self.used: set[int] = set()

    def add(self, kind: str, on: tuple[int, ...], pick: Pick) -> bool:
        """Add one layer with options from `pick`; False where none fit, and nothing has changed."""
        said: list[Any] = []

        def noting(options: Sequence[Any]) -> Any:
            said.append(pick(options))
            return said[-1]

        made = self._again(on, noting) if kind == "again" else self._new(kind, on, noting)
        if made is None:
            return False
        layer, gives = made
        try:
            with torch.no_grad():
                out = _listed(self.net.layers[layer](*(self.values[i] for i in on)))
        except (RuntimeError, ValueError, IndexError, AssertionError):
            out = []
        if not out or not all(_fine(t) for t in out):
            if kind != "again":
                del self.net.layers[-1]
            return False
        kind_of = self.forms[on[0]].kind if gives == "same" else gives
        self.values += out
        self.forms += [Form(kind_of, tuple(t.shape[1:])) for t in out]
        self.used |= set(on)
        self.net.plan.append((layer, on))
        step = Step(kind, on, tuple(said))
        self.recipe = replace(self.recipe, steps=(*self.recipe.steps, step))
        return True

    def _new(self, kind: str, on: tuple[int, ...], pick: Pick) -> tuple[int, str] | None:
        module = BLOCKS[kind].make(pick, *(self.forms[i] for i in on))
        if module is None:
            return None
        self.net.layers.append(module.eval())
        return len(self.net.layers) - 1, BLOCKS[kind].gives

    def _again(self, on: tuple[int, ...], pick: Pick) -> tuple[int, str] | None:
        k = pick(range(max(len(self.recipe.steps), 1)))
        block = BLOCKS.get(self.recipe.steps[k].kind) if k < len(self.recipe.steps) else None
        if block is None or not takes(block, [self.forms[i] for i in on]):
            return None
        return self.net.plan[k][0], block.gives

    def finish(self) -> Net:
        """The network in its state, with weights that hide nothing."""
        unread = [i for i in range(len(self.values)) if i not in self.used]
        self.net.outputs = tuple(i for i in unread if i >= len(self.recipe.inputs))
        if not self.net.outputs:
            raise Illegal("nothing is computed")
        return _put(randomise(self.net).eval(), self.recipe.state)


def _put(net: Net, state: str) -> Net:
    if state == "train":
        return net.train()
    if state == "frozen":
        return net.requires_grad_(False)
    return net if state == "eval" else net.to(getattr(torch, state))


def _fine(t: Tensor) -> bool:
    return 0 < t[0].numel() <= 4096 and t.dim() > 1 and bool(t.isfinite().all())


def _sample(form: Form, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if form.kind == "words":
        return torch.randint(0, 11, (batch, *form.shape), generator=generator)
    return torch.randn((batch, *form.shape), generator=generator)


def build(recipe: Recipe) -> tuple[Net, tuple[Tensor, ...]]:
    """The network and its inputs, the same each time. Raises Illegal where the recipe fits no network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        growing = Growing(recipe)
        inputs = tuple(growing.values)
        for step in recipe.steps:
            said = list(step.said)

            def replay(options: Sequence[Any], said: list[Any] = said) -> Any:
                if not said or said[0] not in options:
                    raise Illegal(f"{said[:1]} is none of {options}")
                return said.pop(0)

            _check(step, growing.forms)
            if not growing.add(step.kind, step.on, replay) or said:
                raise Illegal(f"{step} does not fit")
        net = growing.finish()
    kind = next((p.dtype for p in net.parameters()), torch.float32)
    return net, tuple(t.to(kind) if t.is_floating_point() else t for t in inputs)


def _check(step: Step, forms: list[Form]) -> None:
    there = [forms[i] for i in step.on if i < len(forms)]
    if len(there) < len(step.on) or (step.kind != "again" and not takes(BLOCKS[step.kind], there)):
        raise Illegal(f"{step} reads what is not there")


def takes(block: Block, forms: Sequence[Form]) -> bool:
    """Whether the block takes values of these kinds."""
    return len(forms) == len(block.takes) and all(map(fits, block.takes, forms))


def fits(kind: str, form: Form) -> bool:
    """Whether a value is of a kind: 'any' is everything but words."""
    return kind == form.kind or (kind == "any" and form.kind != "words")
