"""What a pickle asks for, and whether it gets it: an allow-list of classes, decided before any code runs.

torch's own `weights_only` unpickler does the loading and is the enforcement: it looks names up
in a dictionary, calls nothing else, and never imports. What is here only fills that dictionary,
with classes that are harmless whatever arguments they are called with: a file may set any
attribute of an allowed object and may pass any allowed object to any other.
"""

import importlib
import pickletools
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from typing import Any

import torch
from torch import nn
from torch._weights_only_unpickler import _get_allowed_globals

from surgeon.errors import BadInput

# nn.Module classes defined under these may be restored: their constructors and forwards compute
# on tensors and nothing else.
MODULE_HOMES = (
    "torch.nn.modules.",
    "torch.nn.parallel.data_parallel.",
    "torchvision.models.",
    "torchvision.ops.",
)

# Not modules, but inside the modules above, or beside the weights in what training scripts save.
# functools.partial holds an allowed callable and calls nothing else (ViT's norm layer);
# the functions are pure functions of tensors.
HELPERS = frozenset(
    {
        "argparse.Namespace",
        "functools.partial",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "torch.nn.functional.gelu",
        "torch.nn.functional.relu",
        "torch._C._nn.gelu",
        "torchvision.models.detection._utils.BalancedPositiveNegativeSampler",
        "torchvision.models.detection._utils.BoxCoder",
        "torchvision.models.detection._utils.BoxLinearCoder",
        "torchvision.models.detection._utils.Matcher",
        "torchvision.models.detection._utils.SSDMatcher",
        "torchvision.models.optical_flow.raft.CorrBlock",
        "torchvision.models.optical_flow.raft._pass_through_h",
        "torchvision.ops.boxes.box_iou",
    }
)

# numpy.dtype("f8") is an instance of a class of its own, which the unpickler must know as well.
_DTYPES = ("Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "Bool")

# What to do when a file is refused, in one place: every refusal ends in it.
HINT = (
    "save the state dict instead (torch.save(model.state_dict(), ...)) and name the architecture "
    "with --arch; or --allow a class that you trust; --unsafe-pickle runs whatever the file holds"
)

Global = tuple[Any, str]


@dataclass(frozen=True)
class _Refused:
    name: str
    why: str


def wanted(data: bytes, pickles: int = 1) -> list[str]:
    """The qualified names that the first `pickles` pickles in `data` would import, sorted.

    Read from the opcodes; nothing is run. A damaged tail ends the list. Best effort, for messages
    and for filling the allow-list: what it misses, the unpickler refuses.
    """
    stream, names = BytesIO(data), set[str]()
    for _ in range(pickles):
        names.update(_globals(stream))
    return sorted(names)


def _globals(stream: BytesIO) -> Iterator[str]:
    strings: list[str] = []  # STACK_GLOBAL takes the two strings pushed last
    memo: dict[int, str] = {}
    try:
        for op, arg, _ in pickletools.genops(stream):
            if op.name == "GLOBAL":
                module, name = str(arg).split(" ", 1)
                yield _modern(module, name)
            elif op.name == "STACK_GLOBAL" and len(strings) > 1:
                yield _modern(strings[-2], strings[-1])
            elif "UNICODE" in op.name:
                strings.append(str(arg))
            elif op.name == "MEMOIZE" or "PUT" in op.name:
                memo[len(memo) if arg is None else int(arg)] = strings[-1] if strings else ""
            elif "GET" in op.name and arg is not None:
                strings.append(memo.get(int(arg), ""))
    except Exception:  # noqa: BLE001 - hostile bytes; the loader that follows says what is wrong
        return


def _modern(module: str, name: str) -> str:
    # torch.save writes pickle protocol 2, which spells builtins as Python 2 did
    return f"{'builtins' if module == '__builtin__' else module}.{name}"


def admit(names: Iterable[str], allow: tuple[str, ...] = ()) -> list[Global]:
    """The objects behind `names`, for `torch.serialization.safe_globals`; BadInput names all refused.

    `allow` holds qualified names or globs of them (`mynet.*`). A glob admits classes only, and
    only where they are defined, so that `mynet.*` does not let in what mynet imported.
    """
    for pattern in allow:
        if not pattern.split(".")[0].isidentifier():
            raise BadInput(
                f"--allow {pattern!r} would allow any class at all",
                "name the package (mynet.*), or say --unsafe-pickle if that is what you mean",
            )
    known = _get_allowed_globals()
    found = [_admit_one(name, allow) for name in names if name not in known]
    refused = [f for f in found if isinstance(f, _Refused)]
    if refused:
        lines = "\n".join(f"  {r.name}: {r.why}" for r in refused[:20])
        more = f"\n  and {len(refused) - 20} more" if len(refused) > 20 else ""
        raise BadInput(
            f"this file wants classes that are not on the allow-list\n{lines}{more}", HINT
        )
    return _with_dtypes([f for f in found if not isinstance(f, _Refused)])


def _admit_one(name: str, allow: tuple[str, ...]) -> Global | _Refused:
    if name in HELPERS:
        return _resolve(name)
    if name.startswith(MODULE_HOMES):
        return _module_class(name)
    if name in allow:
        with own_folder():
            return _resolve(name)
    if any(fnmatchcase(name, pattern) for pattern in allow):
        with own_folder():
            return _class_at_home(name)
    return _Refused(name, "not allowed")


def _resolve(name: str) -> Global | _Refused:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute), name
    except (ImportError, AttributeError) as error:
        return _Refused(name, f"cannot be found here ({error})")


def _class_at_home(name: str) -> Global | _Refused:
    found = _resolve(name)
    if isinstance(found, _Refused):
        return found
    cls = found[0]
    if not isinstance(cls, type) or f"{cls.__module__}.{cls.__qualname__}" != name:
        return _Refused(name, "not a class defined there; a glob admits nothing else")
    return found


def _module_class(name: str) -> Global | _Refused:
    found = _class_at_home(name)
    if isinstance(found, _Refused):
        return found
    # a GraphModule writes and runs source code when it is restored
    if not issubclass(found[0], nn.Module) or issubclass(found[0], torch.fx.GraphModule):
        return _Refused(name, "not a plain nn.Module class")
    return found


def _with_dtypes(found: list[Global]) -> list[Global]:
    if not any(name == "numpy.dtype" for _, name in found):
        return found
    dtypes = importlib.import_module("numpy.dtypes")
    return [*found, *((getattr(dtypes, f"{d}DType"), f"numpy.dtypes.{d}DType") for d in _DTYPES)]


@contextmanager
def own_folder() -> Iterator[None]:
    # `python train.py` finds classes in the current folder, an installed command does not. Only
    # for names that the user allowed, and last, so that nothing installed is shadowed.
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")
