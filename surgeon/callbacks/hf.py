"""Cuts during a run of Hugging Face's Trainer: the trainer's own model becomes the smaller one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from surgeon.errors import BadInput
from surgeon.loop.pruner import Pruner

if find_spec("transformers") is None:
    raise BadInput(
        "this callback needs transformers, which is not installed",
        "pip install 'model-surgeon[hf]'",
    )

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Pruning(TrainerCallback):
    """Presses before each optimizer step and cuts after every `every` epochs, until all steps were taken.

    example_inputs (a mapping of keywords, say), ratio and options are `surgeon.Pruner`'s; `pruner` is that, from the beginning of training on.
    The trainer holds its model, so it is cut in place: a cut that only a program can run is refused. On one device alone: raises
    BadInput on several.
    """

    def __init__(
        self, example_inputs: Any, ratio: float | None = None, *, every: int = 1, **options: Any
    ) -> None:
        self._inputs, self._ratio, self._options, self._every = (
            example_inputs,
            ratio,
            options,
            every,
        )
        self._epochs = 0
        self.pruner: Pruner | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the pruner, once the model is where it is trained."""
        if args.world_size > 1 or args.n_gpu > 1:
            raise BadInput("a network that several devices hold is not cut", "train on one device")
        if self.pruner is None:
            how = {**self._options, "in_place": True}
            self.pruner = Pruner(kwargs["model"], self._inputs, self._ratio, **how)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the penalty's gradients."""
        if self.pruner is not None:
            self.pruner.regularize()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cut; the trainer's optimizer goes on."""
        self._epochs += 1
        if self.pruner is not None and self._epochs % self._every == 0:
            optimizer = kwargs["optimizer"]  # Accelerate's, around torch's
            self.pruner.step(getattr(optimizer, "optimizer", optimizer))
