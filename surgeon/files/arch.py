"""An architecture reference becomes a module: `torchvision:`, `timm:`, `hf:` or a factory in a file.

Nothing is ever downloaded: weights come from the user's own checkpoint, or are random.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.inputs import BATCH, LENGTH
from surgeon.trace.inputs import Inputs

_FORMS = "torchvision:resnet50, timm:convnext_atto, hf:FOLDER or path/to/file.py:factory"


@dataclass(frozen=True)
class Built:
    """A module made from a reference, as its factory left it.

    The weights are random, unless the reference is a folder that holds them (`trained`) or a
    factory loads its own. `inputs` are example inputs where the factory gave some; `default_shape` is the input shape
    that the library documents, batch included; `note` says which library at which version.
    """

    model: nn.Module
    inputs: Inputs | None
    default_shape: tuple[int, ...] | None
    note: str
    trained: bool = False


def build(ref: str, options: Mapping[str, Any] | None = None) -> Built:
    """The module that `ref` names; `options` go to the library's factory (num_classes, aux_logits).

    Random weights are the same every time, so that what was cut of them can be checked later.

    Errors: BadInput for a reference of no known form, an unknown name (nearest names are said),
    a library that is not installed, a factory that fails (its own error is shown).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _build(ref, options)


def _build(ref: str, options: Mapping[str, Any] | None) -> Built:
    kind, _, rest = ref.partition(":")
    if kind in _BUILDERS and rest:
        return _BUILDERS[kind](rest, dict(options or {}))
    path, _, factory = ref.rpartition(":")
    if path.endswith(".py") and factory:
        return _from_file(Path(path), factory)
    if ref.endswith(".py"):
        raise BadInput(f"{ref} names a file but no factory in it", f"write {ref}:make_model")
    raise BadInput(
        f"{ref!r} is not an architecture reference", f"write {_FORMS}{_maybe_meant(ref)}"
    )


def takes_options(ref: str) -> bool:
    """Whether `build` may be asked for another number of classes."""
    return ref.startswith(("torchvision:", "timm:"))


def _maybe_meant(ref: str) -> str:
    names = [f"torchvision:{name}" for name in torchvision_names()]
    near = difflib.get_close_matches(f"torchvision:{ref.split(':')[-1]}", names, 3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _unknown(what: str, name: str, names: Iterable[str]) -> BadInput:
    near = difflib.get_close_matches(name, list(names), 5, 0.5)
    hint = f"nearest: {', '.join(near)}" if near else "see the library's list of models"
    return BadInput(f"{what} {name!r}", hint)


def _library(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput(
            f"this reference needs {name}, which is not installed",
            f"pip install 'model-surgeon[{extra}]'",
        ) from error


# torchvision


def torchvision_names() -> list[str]:
    """The names that `torchvision:` knows."""
    return importlib.import_module("torchvision.models").list_models()


def _from_torchvision(name: str, options: dict[str, Any]) -> Built:
    models = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        raise _unknown("torchvision has no model", name, models.list_models())
    builder = models.get_model_builder(name)
    if "weights_backbone" in inspect.signature(builder).parameters:
        options = {"weights_backbone": None, **options}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, **options}  # the default, which otherwise warns
    model = _call(builder, f"torchvision:{name}", weights=None, **options)
    version = importlib.import_module("torchvision").__version__
    return Built(model, None, _torchvision_shape(models, name), f"torchvision {version}")


def _torchvision_shape(models: ModuleType, name: str) -> tuple[int, ...] | None:
    """What the preprocessing of the published weights makes; read from their record, not fetched."""
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):  # a model without published weights
        return None
    keywords = getattr(weights.transforms, "keywords", {})
    size = keywords.get("crop_size") or keywords.get("resize_size")
    if size is None:
        return None
    size = (size, size) if isinstance(size, int) else tuple(size)
    size = size * 2 if len(size) == 1 else size
    frames = (LENGTH,) if name in models.list_models(models.video) else ()
    return (BATCH, 3, *frames, *size)


# timm, transformers


def _from_timm(name: str, options: dict[str, Any]) -> Built:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise _unknown("timm has no model", name, timm.list_models())
    model = _call(timm.create_model, f"timm:{name}", name, pretrained=False, **options)
    size = getattr(model, "pretrained_cfg", {}).get("input_size")
    return Built(model, None, (BATCH, *size) if size else None, f"timm {timm.__version__}")


def _from_hf(folder: str, options: dict[str, Any]) -> Built:
    if not Path(folder, "config.json").is_file():
        raise BadInput(f"hf:{folder}: no config.json in that folder", "give a local model folder")
    hf = _library("transformers", "hf")
    # trust_remote_code stays off: the folder's own Python files are never run
    local = {"local_files_only": True}
    config = _call(hf.AutoConfig.from_pretrained, f"hf:{folder}", folder, **local)
    # the class that was saved has the head, AutoModel has not
    cls = getattr(hf, next(iter(config.architectures or [""])), hf.AutoModel)
    note = f"transformers {hf.__version__}"
    if any(Path(folder).glob("model*.safetensors")):
        model = _call(cls.from_pretrained, f"hf:{folder}", folder, use_safetensors=True, **local)
        return Built(model, _hf_inputs(config), None, note, trained=True)
    make = cls.from_config if cls is hf.AutoModel else cls
    return Built(_call(make, f"hf:{folder}", config), _hf_inputs(config), None, note)


def _hf_inputs(config: Any) -> Inputs | None:
    if size := getattr(config, "image_size", None):
        return Inputs.of(torch.zeros(BATCH, getattr(config, "num_channels", 3), size, size))
    if getattr(config, "vocab_size", None):
        return Inputs.of(torch.ones(BATCH, LENGTH, dtype=torch.int64))
    return None


# the user's own file


def _from_file(path: Path, factory: str) -> Built:
    if not path.is_file():
        raise BadInput(f"{path}: no such file", "give the path of a Python file, then :factory")
    module = import_file(path)
    found = getattr(module, factory, None)
    if not callable(found):
        own = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise _unknown(f"{path} has no factory", factory, own)
    made = _call(found, f"{path}:{factory}")
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"{path}:{factory} returned {type(model).__name__}, not an nn.Module",
            "return the model, or (model, example inputs)",
        )
    given = None if inputs is None else Inputs.of(inputs)
    return Built(model, given, None, f"{factory}() in {path.name}")


def import_file(path: Path) -> ModuleType:
    """Run a Python file of the user's own. BadInput shows its error."""
    spec = importlib.util.spec_from_file_location(f"surgeon_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} is not a Python file", f"write {_FORMS}")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look their module up; the file may import its neighbours
    sys.modules[spec.name] = module
    sys.path.append(str(path.parent.resolve()))
    try:
        _call(spec.loader.exec_module, str(path), module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _call(make: Callable[..., Any], ref: str, *args: Any, **options: Any) -> Any:
    try:
        return make(*args, **options)
    except SystemExit as error:
        raise BadInput(
            f"{ref} stopped the program: sys.exit({'' if error.code is None else repr(error.code)})",
            "let it return the model, or raise an error that says what is wrong",
        ) from error
    except Exception as error:
        raise BadInput(
            f"{ref} failed: {type(error).__name__}: {error}", "the error is the factory's own"
        ) from error


_BUILDERS = {"torchvision": _from_torchvision, "timm": _from_timm, "hf": _from_hf}
