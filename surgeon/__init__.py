"""surgeon: physical structured pruning for PyTorch, every cut proven.

The public API, by name. Heavy parts load when they are first used, so that `import surgeon` and the
command line's --help stay quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from surgeon.errors import BadInput, CheckFailed, OutOfReach, SurgeonError, Unproven

if TYPE_CHECKING:
    from surgeon.carry import carry
    from surgeon.check import CheckResult, check
    from surgeon.compose import compose
    from surgeon.data import DataOptions, open_data
    from surgeon.export import export_onnx
    from surgeon.files.slim import load, save
    from surgeon.files.source import open_model
    from surgeon.int8.quantize import Int8File, quantize
    from surgeon.loop.pruner import Pruner
    from surgeon.mask import mask
    from surgeon.measure import measure
    from surgeon.pipeline.replay import apply
    from surgeon.pipeline.result import Result
    from surgeon.pipeline.sensed import sensitivity
    from surgeon.pipeline.traced import trace
    from surgeon.plan import Plan
    from surgeon.score import criterion
    from surgeon.sensitivity.options import Sensing
    from surgeon.sensitivity.record import Sensitivity
    from surgeon.shrink import propose, remove, shrink
    from surgeon.teach import rule
    from surgeon.trace.inputs import Inputs
    from surgeon.tune import Tuned, Tuning, tune

__version__ = "0.1.0"

_HOME = {
    "CheckResult": "surgeon.check",
    "DataOptions": "surgeon.data",
    "Inputs": "surgeon.trace.inputs",
    "Int8File": "surgeon.int8.quantize",
    "Plan": "surgeon.plan",
    "Pruner": "surgeon.loop.pruner",
    "Result": "surgeon.pipeline.result",
    "Sensing": "surgeon.sensitivity.options",
    "Sensitivity": "surgeon.sensitivity.record",
    "Tuned": "surgeon.tune.tuned",
    "Tuning": "surgeon.tune.options",
    "apply": "surgeon.pipeline.replay",
    "carry": "surgeon.carry",
    "check": "surgeon.check",
    "compose": "surgeon.compose",
    "criterion": "surgeon.score",
    "export_onnx": "surgeon.export",
    "load": "surgeon.files.slim",
    "mask": "surgeon.mask",
    "measure": "surgeon.measure",
    "open_data": "surgeon.data",
    "open_model": "surgeon.files.source",
    "propose": "surgeon.shrink",
    "quantize": "surgeon.int8.quantize",
    "remove": "surgeon.shrink",
    "rule": "surgeon.teach",
    "save": "surgeon.files.slim",
    "sensitivity": "surgeon.pipeline.sensed",
    "shrink": "surgeon.shrink",
    "trace": "surgeon.pipeline.traced",
    "tune": "surgeon.tune.run",
}

__all__ = [
    "BadInput", "CheckFailed", "CheckResult", "DataOptions", "Inputs", "Int8File", "OutOfReach", "Plan", "Pruner", "Result",
    "Sensing", "Sensitivity", "SurgeonError", "Tuned", "Tuning", "Unproven", "__version__", "apply", "carry", "check", "compose", "criterion", "export_onnx", "load", "mask", "measure", "open_data",
    "open_model", "propose", "quantize", "remove", "rule", "save", "sensitivity", "shrink", "trace", "tune",
]  # fmt: skip


class _Lazy:
    """A public name: imported when it is first read.

    A data descriptor, because functions and files share names (`surgeon.check` is the function):
    importing the file must not put the module in the function's place.
    """

    def __init__(self, name: str, home: str) -> None:
        self.name, self.home = name, home

    def __get__(self, module: object, owner: type) -> Any:
        return getattr(import_module(self.home), self.name)

    def __set__(self, module: object, value: object) -> None:
        if not isinstance(value, ModuleType):
            raise AttributeError(f"surgeon.{self.name} is part of the public API")


class _Api(ModuleType):
    """This module, with its public names as descriptors."""


for _name, _home in _HOME.items():
    setattr(_Api, _name, _Lazy(_name, _home))
sys.modules[__name__].__class__ = _Api
