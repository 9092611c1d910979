"""Cuts during a Lightning fit: the network that the LightningModule holds in an attribute."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from surgeon.errors import BadInput
from surgeon.loop.pruner import Pruner

if find_spec("lightning") is None:
    raise BadInput(
        "this callback needs lightning, which is not installed",
        "pip install 'model-surgeon[lightning]'",
    )

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class Pruning(Callback):
    """Presses before each optimizer step and cuts after every `every` epochs, until all steps were taken.

    attribute: where the LightningModule holds the network; after a cut the smaller one stands there. example_inputs, ratio and options
    are `surgeon.Pruner`'s; `pruner` is that, from the beginning of the fit on. On one device alone: raises BadInput on several.
    """

    def __init__(
        self,
        example_inputs: Any,
        ratio: float | None = None,
        *,
        attribute: str = "model",
        every: int = 1,
        **options: Any,
    ) -> None:
        self._inputs, self._ratio, self._options = example_inputs, ratio, options
        self._attribute, self._every = attribute, every
        self.pruner: Pruner | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the pruner, once the network is where it is trained."""
        if trainer.world_size > 1:
            raise BadInput(
                "a network that several processes hold is not cut", "fit on one device, devices=1"
            )
        net = getattr(pl_module, self._attribute, None)
        if not isinstance(net, nn.Module):
            raise BadInput(
                f"{type(pl_module).__name__}.{self._attribute} is no network",
                "say where it is: Pruning(..., attribute='net')",
            )
        if self.pruner is None:
            self.pruner = Pruner(net, self._inputs, self._ratio, **self._options)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the penalty's gradients."""
        if self.pruner is not None:
            self.pruner.regularize()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut; the fit's optimizers go on."""
        if self.pruner is not None and (trainer.current_epoch + 1) % self._every == 0:
            setattr(pl_module, self._attribute, self.pruner.step(*trainer.optimizers))
