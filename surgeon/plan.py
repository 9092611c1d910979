"""The Plan: for every state tensor the indices kept along each dim. Frozen, JSON, replayable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from surgeon.errors import BadInput

FORMAT, VERSION = "surgeon-plan", 1
_PLAN = "surgeon shrink writes plan.json"
Keep = Mapping[str, Mapping[int, tuple[int, ...]]]
Folds = Mapping[str, tuple[tuple[int, int, float], ...]]
Carries = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Cuts:
    """A group that may be cut: its channels before and after. `kind` is '' in plans of older surgeons."""

    name: str
    size: int
    kept: int
    exact: bool
    kind: str = ""


@dataclass(frozen=True)
class Left:
    """Channels that were left alone, and why."""

    name: str
    size: int
    why: str
    kind: str = ""


@dataclass(frozen=True)
class Plan:
    """What stays of a model.

    `keep` maps state_dict names of the original model to {dim: sorted indices kept}; a tensor or a
    dim that is not listed is whole. `model` holds source, inputs and fingerprint, `request` what
    was asked. `folds` are factors that the cut put into kept rows (an attention's scale that followed
    its head_dim): {name: [[first row, last row + 1, factor]]} on the slim tensor. `carries` is None but
    where what goes is dead: then the slim model computes what the original does, once these numbers, one
    an element of the slim tensor in order, are added to its tensors.
    """

    keep: Keep
    model: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[Cuts, ...] = ()
    left: tuple[Left, ...] = ()
    folds: Folds = field(default_factory=dict)
    carries: Carries | None = None

    @property
    def factors(self) -> tuple[float, ...]:
        """What weights were multiplied by, each once."""
        return tuple(dict.fromkeys(f for rows in self.folds.values() for *_, f in rows))

    def marked(self, how: Mapping[str, Any] | None) -> Plan:
        """The same, saying that weights were changed after the cut, and how last; as it is without a how."""
        return replace(self, model={**self.model, "tuned": dict(how)}) if how else self

    def unmarked(self) -> Plan:
        """The same of weights as they were cut."""
        return replace(self, model={k: v for k, v in self.model.items() if k != "tuned"})

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data (the file format of plan.json)."""
        folds = {n: [list(f) for f in rows] for n, rows in self.folds.items()}
        carries = {n: list(added) for n, added in (self.carries or {}).items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": dict(self.model),
            "request": dict(self.request),
            "keep": {
                n: {str(d): list(i) for d, i in dims.items()} for n, dims in self.keep.items()
            },
            "groups": [vars(g) for g in self.groups],
            "left": [vars(x) for x in self.left],
            **({"folds": folds} if folds else {}),
            **({"carries": carries} if self.carries is not None else {}),
        }

    @staticmethod
    def from_json(data: Any) -> Plan:
        """The plan of `to_json`; BadInput names what is wrong."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BadInput("not a surgeon plan", f'the file needs "format": "{FORMAT}"')
        if data.get("version") != VERSION:
            raise BadInput(
                f"plan version {data.get('version')!r}; this surgeon reads {VERSION}", _PLAN
            )
        return Plan(
            _keep(data.get("keep")),
            dict(data.get("model") or {}),
            dict(data.get("request") or {}),
            tuple(_entry(Cuts, g) for g in data.get("groups") or ()),
            tuple(_entry(Left, x) for x in data.get("left") or ()),
            _folds(data.get("folds") or {}),
            _carries(data.get("carries")),
        )

    def save(self, path: str | Path) -> None:
        """Write plan.json, whole or not at all."""
        from surgeon.files.atomic import write_text

        write_text(Path(path), dumps(self.to_json()))

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read plan.json; BadInput says what is wrong with the file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
            return Plan.from_json(json.loads(text))
        except FileNotFoundError:
            raise BadInput(f"no such file: {path}", "check the path") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise BadInput(f"{path} cannot be read as a plan: {error}", _PLAN) from error

    @property
    def removed(self) -> int:
        """Channels removed over all groups."""
        return sum(g.size - g.kept for g in self.groups)


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of a model's state names and shapes, not of its weights: a plan fits its fine-tuned copies."""
    text = json.dumps(sorted((n, list(s)) for n, s in shapes.items()))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def dumps(data: Any) -> str:
    """JSON with one line an entry of the top levels, so that plans can be diffed and edited."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        elif isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(v)}" for v in value)
            lines.append(f" {json.dumps(key)}: [\n{inner}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _keep(data: Any) -> Keep:
    if not isinstance(data, dict):
        raise BadInput("the plan has no 'keep' table", _PLAN)
    out: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, dims in data.items():
        if not isinstance(dims, dict):
            raise BadInput(f"keep['{name}'] must map dims to lists of indices", _PLAN)
        out[name] = {_dim(name, d): _indices(name, d, i) for d, i in dims.items()}
    return out


def _folds(data: Any) -> Folds:
    try:
        return {
            n: tuple((int(a), int(b), float(f)) for a, b, f in rows) for n, rows in data.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(
            f"the plan's folds are damaged: {error}", "write {name: [[first, last, factor]]}"
        ) from None


def _carries(data: Any) -> Carries | None:
    if data is None:
        return None
    try:
        return {str(n): tuple(float(x) for x in added) for n, added in data.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(
            f"the plan's carries are damaged: {error}", "write {name: [a number an element]}"
        ) from None


def _dim(name: str, dim: str) -> int:
    if not str(dim).isdigit():
        raise BadInput(f"keep['{name}'] has a dim {dim!r} that is not a number", _PLAN)
    return int(dim)


def _indices(name: str, dim: str, indices: Any) -> tuple[int, ...]:
    fine = isinstance(indices, list) and all(type(i) is int and i >= 0 for i in indices)
    if not fine or not indices or any(a >= b for a, b in pairwise(indices)):
        raise BadInput(
            f"keep['{name}']['{dim}'] must be a non-empty list of increasing indices",
            "remove an index to cut that channel, in every tensor of its group",
        )
    return tuple(indices)


def _entry(kind: Any, data: Any) -> Any:
    try:
        return kind(**data)
    except TypeError as error:
        raise BadInput(f"the plan's groups or left list is damaged: {error}", _PLAN) from None
