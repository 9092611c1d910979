"""What tests of programs compare: two networks' results, and a program with what is read back of its document."""

import json

import torch
from nets import tensors
from torch import Tensor, nn

from surgeon.files.codec import decode, encode
from surgeon.trace.program import Program


def difference(ours: object, theirs: object) -> float:
    """The largest difference relative to the range of `theirs`."""
    pairs = list(zip(tensors(ours), tensors(theirs), strict=True))
    assert pairs
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-20)).item() for a, b in pairs)


def same(a: object, b: object) -> bool:
    pairs = zip(tensors(a), tensors(b), strict=True)
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in pairs)


def seeded(module: nn.Module, *inputs: Tensor) -> object:
    torch.manual_seed(3)
    return module(*inputs)


def read_back(program: Program) -> Program:
    text = json.dumps(encode(program), allow_nan=False)
    return decode(json.loads(text), {n: t.clone() for n, t in program.tensors().items()})
