"""`Sensitivity`: measured groups as data and JSON, and whether they are of the model that is to be cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgeon.errors import BadInput

FORMAT, VERSION = "surgeon-sensitivity", 1
MOST = 1e12  # the error of outputs that are no numbers any more, so that sums of errors are
_AGAIN = "measure it again: surgeon sensitivity MODEL --data DATA -o FILE"


@dataclass(frozen=True)
class Point:
    """One group alone cut at one ratio. error: relative output error (`metrics.reconstruction`); top1, top5:
    shares of labels, None where there are none."""

    ratio: float
    gone: int
    error: float
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True)
class Line:
    """A group's points, by rising ratio."""

    name: str
    size: int
    kind: str
    exact: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What was measured.

    model: source, fingerprint (names and shapes) and a digest of the weights. how: ratios, order, fit, seed.
    data: examples, digest, and the dense network's accuracy where there are labels. planned: names of all
    groups that are measured when it is done. name: of the file that it was read from.
    """

    model: Mapping[str, Any]
    how: Mapping[str, Any]
    data: Mapping[str, Any]
    planned: tuple[str, ...]
    groups: tuple[Line, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    name: str = field(default="the sensitivity given", compare=False)

    @property
    def complete(self) -> bool:
        """Whether every group is measured."""
        return {g.name for g in self.groups} >= set(self.planned)

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Group -> [(channels gone, error)] from nothing on, never falling: what `share_out` takes."""
        found = {}
        for line in self.groups:
            points, worst = [(0, 0.0)], 0.0
            for point in sorted(line.points, key=lambda p: p.gone):
                worst = max(worst, min(point.error, MOST))
                points.append((point.gone, worst))
            found[line.name] = points
        return found

    def as_dict(self) -> dict[str, Any]:
        """The file's content."""
        groups = [{**vars(g), "points": [vars(p) for p in g.points]} for g in self.groups]
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": dict(self.model),
            "how": dict(self.how),
            "data": dict(self.data),
            "complete": self.complete,
            "planned": list(self.planned),
            "groups": groups,
            "notes": list(self.notes),
        }

    def said(self) -> dict[str, Any]:
        """For a plan: what its shares come from."""
        return {"examples": self.data.get("examples"), **self.how}

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        from surgeon.files.atomic import write_text
        from surgeon.report.document import dumps

        write_text(Path(path), dumps(self.as_dict()))

    @staticmethod
    def load(path: str | Path) -> Sensitivity:
        """Read a file. BadInput where it is none, or damaged."""
        try:
            found = _read(json.loads(Path(path).read_text(encoding="utf-8")))
            return replace(found, name=str(path))
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}", _AGAIN) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path} is not what surgeon sensitivity wrote: {error}", _AGAIN
            ) from error

    def refuse_other(self, model: Mapping[str, Any]) -> None:
        """BadInput where this was measured on another network than `model` says, or is not finished."""
        name = self.name
        if self.model.get("fingerprint") != model["fingerprint"]:
            raise BadInput(
                f"{name} was measured on a network with other tensors than this one", _AGAIN
            )
        if self.model.get("weights") != model["weights"]:
            raise BadInput(
                f"{name} was measured on other weights than this network has now",
                f"losses of other weights say nothing here; {_AGAIN}",
            )
        if not self.complete:
            raise BadInput(
                f"{name} has {len(self.groups)} of {len(self.planned)} groups: its run was not finished",
                "run surgeon sensitivity with the same options and -o, and it goes on",
            )


def _read(said: Mapping[str, Any]) -> Sensitivity:
    if said.get("format") != FORMAT or said.get("version") != VERSION:
        raise ValueError(f"format {said.get('format')!r}, version {said.get('version')!r}")
    groups = tuple(
        Line(
            g["name"],
            int(g["size"]),
            g["kind"],
            bool(g["exact"]),
            tuple(_point(p) for p in g["points"]),
        )
        for g in said["groups"]
    )
    return Sensitivity(
        said["model"],
        said["how"],
        said["data"],
        tuple(said["planned"]),
        groups,
        tuple(said["notes"]),
    )


def _point(said: Mapping[str, Any]) -> Point:
    # a network that gives no numbers any more has lost everything: JSON has no infinity
    error = float("inf") if said["error"] is None else float(said["error"])
    return Point(float(said["ratio"]), int(said["gone"]), error, said["top1"], said["top5"])
