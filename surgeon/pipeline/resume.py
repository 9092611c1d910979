"""What is kept of a shrink in several steps, so that a killed run goes on after the last step that was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from surgeon.pipeline.asked import Asked
from surgeon.pipeline.regime import Regime
from surgeon.pipeline.result import Cutting
from surgeon.plan import Plan


@dataclass(frozen=True)
class Progressed:
    """A step that is done: the plan of all that went so far, the weights of what is left, what was said."""

    step: int
    plan: Plan
    state: Mapping[str, Tensor]
    history: tuple[Cutting, ...]


@dataclass(frozen=True)
class Kept:
    """Files of a run in a folder of its own; nothing at all without one."""

    folder: Path | None
    key: str

    @staticmethod
    def of(regime: Regime, model: nn.Module, asked: Asked) -> Kept:
        """Where a run keeps what, and the key that tells it from runs with other options or weights."""
        if regime.state is None:
            return Kept(None, "")
        from surgeon.tune.state import key_of

        tuning = regime.tune.facts() if regime.tune is not None else None
        data = getattr(regime.train, "notes", None)
        facts = {**asked.request.as_dict(), **regime.facts(), "tuning": tuning, "train": data}
        facts["recover"] = asked.material.recover
        teacher = regime.teacher if isinstance(regime.teacher, nn.Module) else None
        facts["teacher"] = regime.teacher if teacher is None else "given"
        return Kept(regime.state, key_of(facts, model, regime.rewind, teacher))

    def read(self) -> Progressed | None:
        """The last step that was done, None where there is none. BadInput for a damaged file, or another run's."""
        if self.folder is None:
            return None
        from surgeon.tune.state import read

        found = read(self.folder / "steps.pt", self.key)
        if found is None:
            return None
        history = tuple(Cutting(**c) for c in json.loads(found["history"]))
        plan = Plan.from_json(json.loads(found["plan"]))
        return Progressed(found["step"], plan, found["state"], history)

    def write(self, done: Progressed) -> None:
        """Replace the file; the state of this step's tuning is not needed any more."""
        if self.folder is None:
            return
        from surgeon.tune.state import write

        self.folder.mkdir(parents=True, exist_ok=True)
        history = json.dumps([vars(c) for c in done.history])
        plan = json.dumps(done.plan.to_json())
        state = {n: t.detach().cpu().clone() for n, t in done.state.items()}
        said: dict[str, Any] = {"step": done.step, "plan": plan, "history": history, "state": state}
        write(self.folder / "steps.pt", {"key": self.key, **said})
        for file in self.folder.glob("tune-*.pt"):
            file.unlink()

    def tuning(self, step: int) -> Path | None:
        """Where the tuning of a step keeps its own state."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"tune-{step}.pt"


def forget(folder: Path) -> None:
    """The run is done, or is to begin again: its files go."""
    for file in (folder / "steps.pt", *folder.glob("tune-*.pt")):
        file.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
