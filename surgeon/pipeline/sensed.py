"""`surgeon.sensitivity`: every group alone, at several ratios; a killed run goes on from its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from surgeon.data import DataOptions, open_data
from surgeon.errors import BadInput, OutOfReach
from surgeon.files.digest import of_tensors
from surgeon.heal.examples import Examples
from surgeon.heal.spool import Spool
from surgeon.pipeline.traced import Traced, trace
from surgeon.plan import fingerprint
from surgeon.score import Evidence, Material, Original, scores_of
from surgeon.score.reduce import Array
from surgeon.sensitivity.look import Looks, Watch
from surgeon.sensitivity.options import Sensing
from surgeon.sensitivity.record import Sensitivity
from surgeon.trace.folding import read_state
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped


def sensitivity(  # noqa: PLR0913  the public call: what is measured, and where it is kept
    model: nn.Module,
    example_inputs: Any,
    data: Any,
    options: Sensing | None = None,
    *,
    file: str | Path | None = None,
    source: str | None = None,
    watch: Watch | None = None,
) -> Sensitivity:
    """What the outputs lose when each group alone is cut, at each of `options.ratios`; `model` is untouched.

    data: batches as `shrink` takes them, or what `open_data` opens. file: written whole after every group;
    where it is there already, of the same network, options and data, what it holds is not measured again.
    Silencing a channel stands for removing it, which is the same but where channels mix (`Line.exact`).
    Raises BadInput for a file of another run, naming what differs; OutOfReach where nothing may be cut.
    """
    how = options or Sensing()
    traced = trace(unwrapped(model), Inputs.of(example_inputs))
    if isinstance(data, str | Path):
        data = open_data(data, traced.inputs, DataOptions())
    material = Material.of({"data": data, "labelled": how.labelled})
    assert material.data is not None
    scores = _scores(traced, how, material)
    groups = [g for g in traced.coupling.groups if g.name in scores and g.size > 1]
    if not groups:
        raise OutOfReach("nothing can be cut", "surgeon inspect shows every group and its reason")
    with Spool() as spool:
        looks = Looks(traced.model, groups, scores, (material.data, spool), how)
        seen = {"examples": looks.examples.count, "digest": _digest(looks.examples)}
        found = Sensitivity(
            {"source": source, **facts(traced)},
            how.as_dict(),
            {**seen, "dense": dict(looks.dense)},
            tuple(g.name for g in groups),
            notes=_notes(looks) + traced.notes,
        )
        found = _begun(found, Path(file) if file is not None else None)
        for line in looks.lines({g.name for g in found.groups}, watch):
            found = replace(found, groups=(*found.groups, line))
            if file is not None:
                found.save(file)
    return found


def facts(traced: Traced) -> dict[str, str]:
    """Whose losses these are: names and shapes, and the weights."""
    shapes = traced.graph.shapes
    weights = of_tensors(sorted(named_state(traced.model).items()))
    return {"fingerprint": fingerprint(shapes), "weights": weights}


def shares(known: Sensitivity, traced: Traced) -> dict[str, list[tuple[int, float]]]:
    """The curves of what was measured on this very network. BadInput where it was another."""
    known.refuse_other(facts(traced))
    names = {g.name for g in traced.coupling.groups}
    return {name: curve for name, curve in known.curves.items() if name in names}


def _scores(traced: Traced, how: Sensing, material: Material) -> dict[str, Array]:
    original = Original(traced.model, traced.coupling, material)
    evidence = Evidence(read_state(traced.model), "group", how.seed, original)
    return scores_of(traced.coupling.groups, evidence, how.criterion or "l2")[0]


def _begun(empty: Sensitivity, file: Path | None) -> Sensitivity:
    """What the file holds already, where it is of this run."""
    if file is None or not file.exists():
        return empty
    found = Sensitivity.load(file)
    for what, there, here in (
        ("another network", found.model.get("fingerprint"), empty.model["fingerprint"]),
        ("other weights", found.model.get("weights"), empty.model["weights"]),
        ("other data", found.data.get("digest"), empty.data["digest"]),
        *((f"another {k}", found.how.get(k), v) for k, v in empty.how.items()),
        ("other groups", found.planned, empty.planned),
    ):
        if there != here:
            raise BadInput(
                f"{file} is of a run with {what}",
                f"give the same to go on; another -o, or remove {file}, to begin anew",
            )
    return replace(empty, groups=found.groups)


def _digest(examples: Examples) -> str:
    return of_tensors(_tensors(examples))


def _tensors(examples: Examples) -> Iterator[tuple[str, Tensor]]:
    for call in examples:
        inputs = call.inputs
        yield from zip(inputs.names, inputs.tensors, strict=True)
        if call.labels is not None:
            yield "labels", call.labels


def _notes(looks: Looks) -> tuple[str, ...]:
    notes = list(looks.examples.notes)
    if any(call.labels is not None for call in looks.examples) and not looks.dense:
        notes.append("the labels are no classes of the first output: its error is measured alone")
    mixed = [g.name for g in looks.groups if g.inexact is not None]
    if mixed:
        notes.append(
            f"channels mix in {len(mixed)} groups ({', '.join(mixed[:3])}): silenced there is not quite removed"
        )
    return tuple(notes)
