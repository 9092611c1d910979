"""Learning from the dense network: its outputs, softened, and how alike it finds the examples of a batch inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import output_tensors
from surgeon.tune.options import Tuning
from surgeon.tune.together import gathered

_POINTS = 4  # inner places that are compared


class Teacher:
    """The dense network, in eval mode and never trained, and what a student has of its answers to learn."""

    def __init__(self, model: nn.Module, student: nn.Module, options: Tuning) -> None:
        self._model = model.eval().requires_grad_(False)
        self._options = options
        self._scales: list[float] = []
        self._paths: tuple[str, ...] = ()
        self._student = student
        self.classes = False

    def meet(self, inputs: Inputs, classes: bool) -> tuple[str, ...]:
        """Look at both networks once on a batch: how large answers are, and what inner places both have.

        Raises BadInput where they do not answer alike. Gives what should be said.
        """
        self.classes = classes
        with torch.no_grad():
            student, training = self._student, self._student.training
            student.eval()
            with _felt(self._model, None) as theirs:
                answers = _floats(inputs.run(self._model))
            with _felt(student, None) as ours:
                own = _floats(inputs.run(student))
            student.train(training)
        if [t.shape for t in answers] != [t.shape for t in own] or not answers:
            shapes = [[list(t.shape) for t in ts] for ts in (answers, own)]
            raise BadInput(
                f"the teacher gives {shapes[0]}, this network {shapes[1]}: they do not answer alike",
                "--teacher is the network that this one was cut from",
            )
        self._scales = [max(float(t.float().var(unbiased=False)), 1e-12) for t in answers]
        if not self._options.features:
            return ()
        self._paths = _places(theirs, ours, inputs.batch, answers)
        if not self._paths:
            return ("no inner features are compared: the two networks share no modules by name",)
        return (f"features compared at {', '.join(self._paths)}",)

    @contextmanager
    def listening(self) -> Iterator[dict[str, Tensor]]:
        """Inside, what the student's places gave in its last forward."""
        with _felt(self._student, self._paths) as found:
            yield found

    def loss(self, inputs: Inputs, output: Any, felt: Mapping[str, Tensor]) -> Tensor:
        """How far the student's output, and what it felt, are from the teacher's on the same inputs."""
        with torch.no_grad(), _felt(self._model, self._paths) as theirs:
            answers = _floats(inputs.run(self._model))
        loss = self.far(answers, _floats(output))
        for path in self._paths:
            alike = _unlike(gathered(felt[path]), gathered(theirs[path]))
            loss = loss + self._options.features * alike / len(self._paths)
        return loss

    def distance(self, inputs: Inputs, output: Any) -> Tensor:
        """Of outputs alone: the score where there are no labels."""
        with torch.no_grad():
            return self.far(_floats(inputs.run(self._model)), _floats(output))

    def far(self, answers: list[Tensor], own: list[Tensor]) -> Tensor:
        """Kullback-Leibler divergence of softened classes; else squared error in parts of the variance."""
        heat = self._options.temperature
        if self.classes:
            taught = F.log_softmax(answers[0].float() / heat, 1)
            given = F.log_softmax(own[0].float() / heat, 1)
            each = F.kl_div(given, taught, reduction="none", log_target=True).sum(1)
            return each.mean() * heat**2
        parts = zip(answers, own, self._scales, strict=True)
        return torch.stack([F.mse_loss(o.float(), a.float()) / s for a, o, s in parts]).mean()


def _floats(output: Any) -> list[Tensor]:
    return [t for t in output_tensors(output) if t.is_floating_point()]


def _unlike(a: Tensor, b: Tensor) -> Tensor:
    """Rows [n, ...] of the student and of the teacher; how alike each finds each pair may differ, widths too."""
    return (_alike(a) - _alike(b)).square().sum(1).mean()


def _alike(x: Tensor) -> Tensor:
    rows = x.float().flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def _places(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], batch: int, answers: list[Tensor]
) -> tuple[str, ...]:
    """A few evenly spaced modules that run in both, in the order in which they run."""
    shared = [
        path
        for path, x in theirs.items()
        if path in ours and x.dim() > 1 and x.shape[0] == ours[path].shape[0] == batch
    ]
    shared = [p for p in shared if not any(theirs[p] is t for t in answers)]
    if not shared:
        return ()
    at = [round((i + 1) * (len(shared) - 1) / _POINTS) for i in range(_POINTS)]
    return tuple(dict.fromkeys(shared[i] for i in at))


@contextmanager
def _felt(model: nn.Module, paths: tuple[str, ...] | None) -> Iterator[dict[str, Tensor]]:
    """Inside, the outputs of the modules at `paths` (None: of all) in the last forward, by path."""
    found: dict[str, Tensor] = {}

    def note(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            first = next(iter(_floats(output)), None)
            if first is not None:
                found[path] = first

        return hook

    modules = {p: m for p, m in model.named_modules() if p and (paths is None or p in paths)}
    handles = [m.register_forward_hook(note(p)) for p, m in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
