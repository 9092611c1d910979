"""Example inputs for a model: as the user wrote them, or guessed from its first layer and tried."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs
from surgeon.trace.shell import shell, to_meta, twin_of

BATCH = 2  # of inputs that nobody gave: tracing keeps a batch of 2 apart from sizes of 1
LENGTH = 16  # of a made-up sequence of tokens or frames

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_FORM = (
    "write sizes as 1,3,224,224; several inputs as 1,3,64,64;1,10; a type as 1,128:int64; "
    "a keyword as input_ids=1,128:int64"
)
_NAMED = re.compile(r"\s*([A-Za-z_]\w*)\s*=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Guess:
    """An input that this model's forward accepts, and why it was tried."""

    inputs: Inputs
    why: str


def parse_inputs(text: str) -> Inputs:
    """The inputs that `--input` describes, filled with reproducible noise.

    `1,3,224,224` is one float32 input, `1,3,64,64;1,128:int64` two, `input_ids=1,128:int64` a
    keyword. Errors: BadInput with the part that cannot be read.
    """
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for seed, part in enumerate(text.split(";")):
        named = _NAMED.fullmatch(part)
        if named is None:
            if kwargs:
                raise BadInput(
                    f"--input {part!r} has no name and stands behind one that has", _FORM
                )
            args.append(_parse_one(part, seed))
        elif named[1] in kwargs:
            raise BadInput(f"--input names {named[1]} twice", _FORM)
        else:
            kwargs[named[1]] = _parse_one(named[2], seed)
    return Inputs(tuple(args), kwargs)


def refilled(inputs: Inputs) -> Inputs:
    """The same call with reproducible noise in its tensors; integers that are not all the same stay, of others none is
    above what it was."""
    seeds = count()

    def noise(x: Tensor) -> Tensor:
        if not x.is_floating_point() and bool((x != x.flatten()[:1]).any()):
            return x
        drawn = example(tuple(x.shape), x.dtype, next(seeds))
        return drawn if x.is_floating_point() else torch.minimum(drawn, x)

    return inputs.map(noise)


def _parse_one(text: str, seed: int) -> Tensor:
    sizes, _, name = (part.strip() for part in text.partition(":"))
    dtype = _DTYPES.get(name or "float32")
    if dtype is None:
        raise BadInput(f"--input {text!r}: no such type {name!r}", f"one of {', '.join(_DTYPES)}")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError as error:
        raise BadInput(f"--input {text!r} is not a list of sizes", _FORM) from error
    if min(shape) < 1:
        raise BadInput(f"--input {text!r}: a size is at least 1, here it is {min(shape)}", _FORM)
    try:
        return example(shape, dtype, seed)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        size = prod(shape) * dtype.itemsize
        raise BadInput(
            f"--input {text!r} cannot be made: it takes {size / 1e9:,.0f} GB", "give a smaller one"
        ) from error


def guess_input(model: nn.Module) -> Guess | None:
    """An input made from the model's first layer that its forward accepts, or None.

    Shapes have a batch of 2. Images are given as one batch, as a list of two, and as two batches. A
    guess counts only if the forward runs and the first output has that batch, or for a list of
    images if there is a dict for each: a `view(-1, 400)` swallows any image size, but not without
    changing the batch.
    """
    for shape, dtype, why in _candidates(model):
        for inputs, form in _forms(shape, dtype):
            if _accepts(model, inputs):
                return Guess(inputs, why + form)
    return None


def _forms(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[Inputs, str]]:
    """The calls that one shape may stand for, and what to say of them."""
    batch = example(shape, dtype)
    yield Inputs.of(batch), ""
    if len(shape) == 4:
        yield Inputs(([*batch],)), ", in a list of images"
        yield Inputs((batch, example(shape, dtype, seed=1))), ", and two of them in"


def refusal(model: nn.Module) -> str | None:
    """The model's own error on the first input that would be tried, and that input; None if none is."""
    for shape, dtype, _ in _candidates(model):
        try:
            with torch.no_grad():
                model(example(shape, dtype))
        except Exception as error:  # noqa: BLE001 - forward raises whatever it likes
            text = (str(error).strip() or "no message").splitlines()[0]
            return f"{type(error).__name__}: {text} (input {','.join(map(str, shape))})"
        return None
    return None


def example(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Reproducible noise: standard normal, or 0 and 1 for integers (indices that any table has)."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


_Candidate = tuple[tuple[int, ...], torch.dtype, str]


def _candidates(model: nn.Module) -> Iterator[_Candidate]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Conv3d):
            yield from _for_conv(name, layer, model)
            return
        if isinstance(layer, nn.Linear):
            why = f"the first layer, {name or 'the model itself'}, is linear"
            yield (BATCH, layer.in_features), torch.float32, why
            yield (BATCH, LENGTH, layer.in_features), torch.float32, why
            return
        if isinstance(layer, nn.RNNBase):
            why = f"the first layer, {name}, is recurrent"
            yield (BATCH, LENGTH, layer.input_size), torch.float32, why
            return
        if isinstance(layer, nn.Embedding):
            yield (BATCH, LENGTH), torch.int64, f"the first layer, {name}, is an embedding"
            return


def _ends_in_grid(model: nn.Module) -> bool:
    # VGG starts with a stride of 1, and pools to 7x7, which 32 pixels never come to
    pools = (layer for layer in model.modules() if isinstance(layer, nn.AdaptiveAvgPool2d))
    return any(pool.output_size not in (1, (1, 1)) for pool in pools)


def _for_conv(
    name: str, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, model: nn.Module
) -> Iterator[_Candidate]:
    kind = (
        f"the first conv, {name or 'the model itself'}, is {'x'.join(map(str, conv.kernel_size))}"
    )
    why = f"{kind} stride {conv.stride[0]}, {conv.in_channels} channels in"
    if isinstance(conv, nn.Conv2d):
        # CIFAR networks start without a stride; ImageNet ones shrink at once, or end in a grid
        small = max(conv.kernel_size) <= 5 and max(conv.stride) == 1 and not _ends_in_grid(model)
        sizes = (32, 28, 64, 224, 96, 8) if small else (224, 32, 256, 299, 128, 384)
        shapes = [(size, size) for size in sizes]
    elif isinstance(conv, nn.Conv1d):
        shapes = [(size,) for size in (128, 1024, 16000, 512, 256)]
    else:
        shapes = [(16, 112, 112), (16, 224, 224), (32, 32, 32)]
    for size in shapes:
        yield (BATCH, conv.in_channels, *size), torch.float32, why


def _accepts(model: nn.Module, inputs: Inputs) -> bool:
    return _runs(model, inputs, "meta") or _runs(model, inputs, "cpu")


def _runs(model: nn.Module, inputs: Inputs, device: str) -> bool:
    """Whether the forward runs there; meta costs nothing, but not every forward can."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    inputs = inputs.map(lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype))
    try:
        # on a copy: a forward may keep what it made for the next run, on meta or for this size
        twin = shell(model, to_meta).eval() if device == "meta" else twin_of(model)
        state = {k: v.to(device) for k, v in [*twin.named_parameters(), *twin.named_buffers()]}
        with torch.no_grad():
            out = torch.func.functional_call(twin, state, inputs.args, dict(inputs.kwargs))
    except Exception:  # noqa: BLE001 - the question is only whether it runs
        return False
    each = isinstance(out, list) and all(isinstance(x, Mapping) for x in out)
    if each or isinstance(inputs.args[0], list):
        return each and isinstance(inputs.args[0], list) and len(out) == BATCH
    first = _first_tensor(out)
    return first is not None and first.dim() > 0 and first.shape[0] == BATCH


def _first_tensor(out: Any) -> Tensor | None:
    if isinstance(out, Tensor):
        return out
    values = list(out.values()) if isinstance(out, Mapping) else out
    if isinstance(values, tuple | list):
        return next((t for v in values if (t := _first_tensor(v)) is not None), None)
    return None
