"""Tune a network: open what is needed, go through the epochs, keep the best, go on where a run was killed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from torch import nn

from surgeon.data.open import open_examples
from surgeon.data.samples import DataOptions, Examples, Samples, chosen
from surgeon.errors import BadInput
from surgeon.files.inputs import guess_input
from surgeon.trace.folding import own_copy, recompute
from surgeon.trace.inputs import Inputs
from surgeon.tune import state as states
from surgeon.tune.distil import Teacher
from surgeon.tune.loop import Course, Loop, Watch, copied
from surgeon.tune.options import Tuning
from surgeon.tune.order import split
from surgeon.tune.task import Task
from surgeon.tune.tuned import Epoch, Tuned


def tune(
    model: Any,
    data: Any,
    teacher: nn.Module | None = None,
    options: Tuning | None = None,
    *,
    example_inputs: Any = None,
    watch: Watch | None = None,
) -> Tuned:
    """Train a copy of `model` on `data`; the best epoch on examples held out of `data` is given back.

    model: a module, or what `shrink` gave. data: what `open_data` takes, or `Samples`. teacher: the
    dense network; without labels it alone is learnt from. example_inputs: guessed where missing.
    Under `accelerate launch` the processes share each batch, and compute what one would. Raises
    BadInput for data without labels and no teacher, or what does not fit the network.
    """
    options = options or Tuning()
    module, like = _opened(model, example_inputs)
    accelerator = _accelerator(options)
    examples, indices = _examples(data, like, options)
    if not examples.labelled and teacher is None:
        raise BadInput(
            "the data have no labels", "give --teacher, the dense network, to learn from"
        )
    train, held = split(indices, options.validation, options.seed)
    student = own_copy(module, {}).to(accelerator.device)
    with torch.random.fork_rng():
        return _Run(accelerator, student, options).go(
            (module, teacher), (examples, train, held), like, watch
        )


def _opened(model: Any, example_inputs: Any) -> tuple[nn.Module, Inputs]:
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(module, nn.Module):
        raise BadInput(f"a model is an nn.Module, not {type(model).__name__}")
    given = getattr(model, "inputs", None) if module is not model else None
    given = example_inputs if example_inputs is not None else given
    if given is not None:
        return module, Inputs.of(given)
    guess = guess_input(module)
    if guess is None:
        raise BadInput("no input could be guessed that this model accepts", "give example_inputs")
    return module, guess.inputs


def _accelerator(options: Tuning) -> Accelerator:
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # heads that only some read
    # processes on a machine without an accelerator find each other only where they are told to use the CPU
    cpu = not torch.accelerator.is_available()
    if options.tensorboard is None:
        return Accelerator(cpu=cpu, kwargs_handlers=[unused])
    if not any(importlib.util.find_spec(n) for n in ("tensorboard", "tensorboardX")):
        raise BadInput("tensorboard is not installed", "pip install 'model-surgeon[tune]'")
    folder = Path(options.tensorboard)
    tracked = Accelerator(
        cpu=cpu, kwargs_handlers=[unused], log_with="tensorboard", project_dir=folder
    )
    tracked.init_trackers("surgeon")
    return tracked


def _examples(data: Any, like: Inputs, options: Tuning) -> tuple[Examples, list[int]]:
    if isinstance(data, Samples):
        return data.examples, list(data.indices)
    how = DataOptions(
        options.samples, options.batch, options.seed, options.mean, options.std, options.arch
    )
    examples = open_examples(data, like, how)
    return examples, chosen(examples.count, how)


@dataclass
class _Best:
    score: float
    epoch: int
    state: dict[str, Any]


class _Run:
    """One call of `tune`."""

    def __init__(self, accelerator: Accelerator, student: nn.Module, options: Tuning) -> None:
        self._accelerator, self._student, self._options = accelerator, student, options
        self._history: list[Epoch] = []

    def go(
        self,
        models: tuple[nn.Module, nn.Module | None],
        data: tuple[Examples, list[int], list[int]],
        like: Inputs,
        watch: Watch | None,
    ) -> Tuned:
        """All epochs that are not done yet."""
        original, dense = models
        course, notes = self._course(dense, data, like)
        loop = Loop(self._accelerator, self._student, course, self._options)
        facts = {**self._options.facts(), "train": data[1], "held": data[2]}
        key = states.key_of(facts, original, dense)
        before, best = self._begin(loop, key)
        while loop.done < self._options.epochs and not self._stalled(best):
            epoch = loop.epoch(watch)
            self._history.append(epoch)
            if self._options.keep == "last" or _better(epoch.score, best.score, course.task.metric):
                best = _Best(epoch.score, epoch.number, copied(loop.tuned))
            self._save(loop, key, before, best)
            self._log(epoch, course.task.metric)
        result = own_copy(original, {})
        result.load_state_dict(best.state)
        recompute(result)  # of masks and norms of weights, which hooks apply
        for tracker in self._accelerator.trackers:
            tracker.finish()
        which = (
            "the last epoch kept, scored"
            if self._options.keep == "last"
            else "the best epoch chosen"
        )
        counts = f"trained on {len(data[1])} examples, {which} on {len(data[2])} held out of them"
        return Tuned(
            result.eval(), course.task.metric, before, best.score, best.epoch,
            tuple(self._history), self._options.facts(), (counts, *data[0].notes, *notes),
        )  # fmt: skip

    def _course(
        self, dense: nn.Module | None, data: tuple[Examples, list[int], list[int]], like: Inputs
    ) -> tuple[Course, Sequence[str]]:
        examples, train, held = data
        device = self._accelerator.device
        some = examples.batch(held[: min(len(held), 16)])
        task = Task(some.labels, self._options, dense is not None)
        notes: Sequence[str] = ()
        teacher = None
        if dense is not None:
            teacher = Teacher(own_copy(dense, {}).to(device), self._student, self._options)
            notes = teacher.meet(some.inputs.map(lambda t: t.to(device)), task.classes)
        size = some.inputs.tensors[0].shape[-2:] if examples.pictures else None
        picture = None if size is None else (size[0], size[1])
        return Course(examples, train, held, task, teacher, picture), notes

    def _begin(self, loop: Loop, key: str) -> tuple[float, _Best]:
        """Where an earlier run of the same options was killed, or the beginning."""
        found: list[Any] = [None]
        if self._options.state is not None and self._accelerator.is_main_process:
            try:
                found = [states.read(Path(self._options.state), key)]
            except BadInput as error:  # raised by every process, or the others would wait
                found = [error]
        broadcast_object_list(found)
        state = found[0]
        if isinstance(state, BadInput):
            raise state
        if state is None:
            before = loop.score()
            return before, _Best(before, 0, copied(loop.tuned))
        loop.resume(state["loop"])
        self._history = [Epoch(**e) for e in state["history"]]
        return state["before"], _Best(**state["best"])

    def _save(self, loop: Loop, key: str, before: float, best: _Best) -> None:
        if self._options.state is None or not self._accelerator.is_main_process:
            return
        history = [vars(e) for e in self._history]
        state = {"key": key, "loop": loop.state(), "before": before}
        states.write(Path(self._options.state), {**state, "best": vars(best), "history": history})

    def _stalled(self, best: _Best) -> bool:
        patience = self._options.patience
        return patience is not None and len(self._history) - best.epoch >= patience

    def _log(self, epoch: Epoch, metric: str) -> None:
        if self._options.tensorboard is not None:
            values = {"train/loss": epoch.loss, f"validation/{metric}": epoch.score, "lr": epoch.lr}
            self._accelerator.log(values, step=epoch.number)


def _better(score: float, best: float, metric: str) -> bool:
    return score > best if metric == "top-1" else score < best
