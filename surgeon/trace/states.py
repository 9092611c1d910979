"""States of a model that cannot be cut as they are: refused by the module's name, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.nn.parameter import is_lazy

from surgeon.errors import BadInput
from surgeon.trace.modules import first_paths

_LATER = "prune first, quantise the slim model after"
_OPS = "__torch_dispatch__"  # a class that has its own decides what every op does
_QUANTISERS = {
    "auto_gptq", "awq", "bitsandbytes", "compressed_tensors", "gptqmodel", "hqq", "modelopt", "optimum",
    "quanto", "torchao",
}  # fmt: skip


def refuse_unusable(model: nn.Module) -> None:
    """Raise BadInput where surgeon cannot work on the model in its present state.

    TorchScript, tensors that a lazy layer has not made yet, quantised or fake-quantised layers,
    sparse and nested tensors, tensors of a class with ops of its own.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise BadInput(
            "a TorchScript module cannot be cut", "give the Python module it was made from"
        )
    for module, path in first_paths(model).items():
        found = _module_state(module)
        for name, tensor in _own(module):
            found = found or _tensor_state(name, tensor)
        if found is not None:
            where = f"{path or 'the model itself'} ({type(module).__name__})"
            raise BadInput(f"{where} {found[0]}", found[1])


def _module_state(module: nn.Module) -> tuple[str, str] | None:
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        held = any(True for _ in module.parameters())
        return ("is TorchScript", "put the Python module it was made from there") if held else None
    if isinstance(module, (FakeQuantizeBase, ObserverBase)):
        return f"watches values for a quantisation to come ({kind.__module__})", _LATER
    parts = kind.__module__.split(".")
    from_torch = parts[:2] == ["torch", "ao"] and {"quantized", "qat"} & set(parts)
    if kind is not FloatFunctional and (from_torch or parts[0] in _QUANTISERS):
        return f"is quantised ({kind.__module__})", _LATER
    return None


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield name, tensor


def _tensor_state(name: str, tensor: Tensor) -> tuple[str, str] | None:
    if is_lazy(tensor):
        return f"has not made its {name} yet", "run the model once on an example: model(x)"
    if tensor.is_nested:
        return f"holds a nested tensor, {name}", "hold a padded tensor instead"
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        return f"holds a tensor that is not dense, {name} ({layout})", "make it dense: to_dense()"
    if getattr(type(tensor), _OPS) is not getattr(Tensor, _OPS):
        package = type(tensor).__module__.split(".")[0]
        hint = _LATER if package in _QUANTISERS else "put a plain tensor of its values there"
        return f"holds a {type(tensor).__name__}, {name}, which is no plain tensor", hint
    plain = tensor.is_floating_point() or tensor.is_complex()
    small = tensor.dtype.itemsize == 1 and tensor.dtype != torch.bool
    if tensor.is_quantized or (isinstance(tensor, nn.Parameter) and (small or not plain)):
        dtype = str(tensor.dtype).removeprefix("torch.")
        return f"is quantised: its {name} is {dtype}", _LATER
    return None
