"""The loop: epochs of steps on this process's part of each batch, a score after each, the best one kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from surgeon.data.samples import Batch, Examples
from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs
from surgeon.tune.augment import augmentation
from surgeon.tune.distil import Teacher
from surgeon.tune.options import Tuning
from surgeon.tune.order import epoch_order, parts, steps_of
from surgeon.tune.reading import read
from surgeon.tune.recipe import averaged, clip_of, make_optimizer, make_schedule
from surgeon.tune.task import Task
from surgeon.tune.together import WholeBatch
from surgeon.tune.tuned import Epoch, Step

Watch = Callable[[Step], None]


@dataclass(frozen=True)
class Course:
    """What is learnt: from which examples, and with which held out; for pictures, their size."""

    examples: Examples
    train: list[int]
    held: list[int]
    task: Task
    teacher: Teacher | None
    picture: tuple[int, int] | None


class Loop:
    """A network in training, and everything that changes with it."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, course: Course, options: Tuning
    ) -> None:
        self._accelerator, self._course, self._options = accelerator, course, options
        self.model = model
        self.place = (accelerator.process_index, accelerator.num_processes)
        self.batch, self.steps = steps_of(len(course.train), options.batch, self.place[1])
        self._clip = clip_of(model, options)
        self._average = averaged(model, options.ema)
        prepared = accelerator.prepare(model, make_optimizer(model, options))
        self._wrapped, self._optimizer = prepared
        inner = self._optimizer.optimizer
        self._schedule = make_schedule(inner, options, self.steps * options.epochs)
        self.done = 0

    @property
    def tuned(self) -> nn.Module:
        """The network that is scored and kept: the averaged one where weights are averaged."""
        return self.model if self._average is None else self._average.module

    def epoch(self, watch: Watch | None) -> Epoch:
        """Train one epoch, and score it."""
        number = self.done + 1
        # everything random in an epoch comes from here, so that it can be gone through again
        torch.manual_seed(hash((self._options.seed, number, self.place[0])) % 2**63)
        self._wrapped.train()
        total, lr = 0.0, 0.0
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")
            for step, batch in enumerate(self._batches(number), 1):
                lr = self._optimizer.param_groups[0]["lr"]
                loss = float(self._step(batch))
                total += loss
                if watch is not None:
                    watch(Step(number, self._options.epochs, step, self.steps, loss))
        self.done = number
        mean = self._mean(torch.tensor([total, float(self.steps)]))
        return Epoch(number, mean, self.score(), lr)

    def _batches(self, number: int) -> Any:
        options, course = self._options, self._course
        order = epoch_order(course.train, self.batch, number, options.seed)
        change = None
        if course.picture is not None:
            change = augmentation(options.augment, course.picture, options.seed, number)
        return read(course.examples, order, self.place, change, options.workers)

    def _step(self, batch: Batch) -> Tensor:
        batch = self._here(batch)
        teacher = self._course.teacher
        with ExitStack() as stack:
            stack.enter_context(self._precision())
            felt = stack.enter_context(teacher.listening()) if teacher is not None else {}
            with WholeBatch():
                output = self._forward(self._wrapped, batch.inputs)
            loss = self._loss(batch, output, felt)
        if not bool(loss.detach().isfinite()):
            raise BadInput(
                f"the loss became {float(loss.detach())}", "a smaller --lr, or --precision fp32"
            )
        self._accelerator.backward(loss)
        if self._clip is not None:
            self._accelerator.clip_grad_norm_(self._wrapped.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return loss.detach()

    def _loss(self, batch: Batch, output: Any, felt: dict[str, Tensor]) -> Tensor:
        course, hard = self._course, self._options.hard
        if course.teacher is None:
            assert batch.labels is not None  # said before the run began
            return course.task.loss(output, batch.labels)
        taught = course.teacher.loss(batch.inputs, output, felt)
        if batch.labels is None:
            return taught
        return hard * course.task.loss(output, batch.labels) + (1 - hard) * taught

    @torch.no_grad()
    def score(self) -> float:
        """Of the examples that are held out: mean over all of them."""
        model, course = self.tuned, self._course
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for batch in read(course.examples, parts(course.held, self.batch), self.place):
            batch = self._here(batch)
            with self._precision():
                output = self._forward(model, batch.inputs)
                if batch.labels is not None:
                    value = course.task.score(output, batch.labels)
                else:
                    assert course.teacher is not None  # said before the run began
                    value = course.teacher.distance(batch.inputs, output)
            total += torch.tensor([float(value) * batch.count, batch.count])
        return self._mean(total)

    def _mean(self, sums: Tensor) -> float:
        """A sum over a count, of all processes."""
        total: Any = self._accelerator.reduce(sums.float().to(self._accelerator.device), "sum")
        return float(total[0] / total[1])

    def _here(self, batch: Batch) -> Batch:
        device = self._accelerator.device
        labels = None if batch.labels is None else batch.labels.to(device)
        return Batch(batch.inputs.map(lambda t: t.to(device)), labels)

    def _precision(self) -> torch.autocast:
        device = self._accelerator.device.type
        wanted = self._options.precision
        able = device == "cuda" and torch.cuda.is_bf16_supported()
        half = wanted == "bf16" or (wanted == "auto" and able)
        return torch.autocast(device, torch.bfloat16, enabled=half)

    def _forward(self, model: nn.Module, inputs: Inputs) -> Any:
        try:
            return inputs.run(model)
        except (BadInput, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            shapes = ", ".join(str(list(t.shape)) for t in inputs.tensors)
            raise BadInput(f"the network fails on a batch of {shapes}: {said}") from error

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, on the CPU."""
        return {
            "done": self.done,
            "model": copied(self.model),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def copied(model: nn.Module) -> dict[str, Tensor]:
    """The state on the CPU, of its own."""
    return {n: t.detach().cpu().clone() for n, t in model.state_dict().items()}
