"""A .pt2 program, vetted before torch.export reads it: that loader runs what the file says.

`torch.export.load` unpickles weights, constants and sample inputs without an allow-list, loads
compiled libraries, evaluates size expressions as Python, and resolves operators by walking
attributes from `torch` (`torch.serialization.os.system` is found). So every string in the
file is checked here first, against what an exported network needs, on the same bytes and
through the same archive reader that then loads them.
"""

import json
import re
from io import BytesIO
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import PT2ArchiveReader, load_pt2

from surgeon.errors import BadInput
from surgeon.files.allowed import find_op

_UNSAFE = "re-export the network where you made it, or pass --unsafe-pickle if you trust this file"
_MODEL = "models/model.json"
_MEMBERS = re.compile(
    r"(models/model\.json|archive_format|archive_version|version|byteorder|\.data/\w+"
    r"|\.format_version|\.storage_alignment|data/sample_inputs/model\.pt|extra/.*"
    r"|data/weights/(model_weights_config\.json|weight_\d+|model\.pt)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+|model\.pt))"
)
_PICKLES = ("data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt")
_NAME = re.compile(r"[\w.\-+:$<>=]*")  # no quote, bracket or blank: it may become part of source
_IDENTIFIER = re.compile(r"\w*")
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=!&|~]*")  # no quote, bracket or attribute
_WORDS = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[a-z]+\d+")
_QUOTED = re.compile(r"Symbol\('([a-z]+\d+)'(?:, \w+=(?:True|False))*\)")
_FUNCTION = re.compile(
    r"Add|Mul|Pow|Integer|Rational|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv"
    r"|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv"
    r"|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|Max|Min|Eq|Ne|Ge|Gt|Le|Lt"
    r"|And|Or|Not|True|False"
)
_OPERATOR = re.compile(r"torch\.ops\.(aten|torchvision)\.(\w+\.\w+)")
# what export adds to check sizes; the rest of the allowed operators is the list in allowed.py
_CHECKS = frozenset(
    {
        "_assert_tensor_metadata.default",
        "_assert_scalar.default",
        "sym_constrain_range.default",
        "sym_constrain_range_for_size.default",
    }
)
_SCALAR = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge"
    r"|and_|or_|not_)|math\.(ceil|floor|trunc|sqrt)|torch\.sym_\w+"
)
# export wraps what ran under torch.no_grad() or autocast in these
_WRAPPERS = frozenset(
    {
        "torch.ops.higher_order.wrap_with_set_grad_enabled",
        "torch.ops.higher_order.wrap_with_autocast",
    }
)
_CONTAINERS = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)
_FREE_TEXT = frozenset({"as_string", "as_strings", "torch_version"})  # stays a string
_REMARKS = frozenset(
    {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node"}
)


def load_program(data: bytes, unsafe: bool = False) -> ExportedProgram:
    """The program in a .pt2 archive; BadInput names the first thing in it that could run code."""
    if not unsafe:
        _vet(data)
    # not torch.export.load: on an error that falls back to an older format, read by another reader
    contents = load_pt2(BytesIO(data))
    program = contents.exported_programs.get("model")
    if program is None:
        raise BadInput("this archive holds no exported program", _UNSAFE)
    # guards are Python source, run by program.module(); they only check sizes that we check too
    program._guards_code = []
    return program


def _vet(data: bytes) -> None:
    reader = PT2ArchiveReader(BytesIO(data))
    members = reader.get_file_names()
    if _MODEL not in members:
        raise BadInput("this archive holds no exported program", "save it with torch.export.save")
    for member in members:
        if not _MEMBERS.fullmatch(member):
            _refuse(f"it holds {member}, which is no part of an exported network")
    for member in members:
        if member in _PICKLES:
            _vet_pickle(member, reader.read_bytes(member))
        elif member.endswith("_config.json"):
            _vet_config(json.loads(reader.read_bytes(member)))
    _walk(json.loads(reader.read_bytes(_MODEL)), "")


def _refuse(what: str) -> None:
    raise BadInput(f"refusing to load this .pt2 program: {what}", _UNSAFE)


def _vet_pickle(member: str, data: bytes) -> None:
    try:
        torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever is wrong, torch's loader would then run the pickle
        _refuse(f"{member} is a pickle of more than tensors")


def _vet_config(config: dict[str, Any]) -> None:
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            _refuse(f"{name} is a pickled object, not a plain tensor")
        _walk({name: entry}, "")


def _walk(value: Any, key: str) -> None:
    """Check every string below `value`; `key` is the field that holds it."""
    if isinstance(value, dict):
        for field, inner in value.items():
            _check(str(field), "")
            if not _is_remark(field, inner):
                _walk(inner, field)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, key)
    elif isinstance(value, str):
        _check(value, key)


def _is_remark(field: str, value: Any) -> bool:
    """Whether this field holds only text about the network: traces, module paths, dropped guards.

    By content as well as by name: a value of the graph may be called `metadata` too.
    """
    if field == "guards_code":
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    return (
        field == "metadata"
        and isinstance(value, dict)
        and value.keys() <= _REMARKS
        and all(isinstance(v, str) for v in value.values())
    )


def _check(text: str, key: str) -> None:
    if key in _FREE_TEXT:
        return
    if key == "expr_str":
        ok = _is_expression(text)
    elif key in ("target", "as_operator"):
        ok = _is_operator(text)
    elif key in ("in_spec", "out_spec"):
        ok = not text or _is_structure(json.loads(text)[1])
    else:
        pattern = _IDENTIFIER if key in ("name", "as_name") else _NAME
        ok = pattern.fullmatch(text) is not None
    if not ok:
        _refuse(f"{key or 'a name in it'} is {text[:80]!r}")


def _is_expression(text: str) -> bool:
    text = _QUOTED.sub(r"\1", text)
    words = _WORDS.findall(text)
    return _EXPRESSION.fullmatch(text) is not None and all(
        _FUNCTION.fullmatch(word) or _SYMBOL.fullmatch(word) for word in words
    )


def _is_operator(text: str) -> bool:
    if text in _WRAPPERS or _SCALAR.fullmatch(text):
        return True
    named = _OPERATOR.fullmatch(text)
    if named is None or named[2] in _CHECKS:
        return named is not None
    try:
        find_op(f"{named[1]}::{named[2]}")
    except BadInput:  # not on the list; the caller says where
        return False
    return True


def _is_structure(spec: dict[str, Any]) -> bool:
    # other containers name a module to import, and so do enums among a dict's keys
    if spec["type"] not in _CONTAINERS or "__enum__" in str(spec["context"]):
        return False
    return all(_is_structure(child) for child in spec["children_spec"])
