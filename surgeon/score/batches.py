"""The user's data as batches that can be gone through again: inputs, and labels where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

_HOW = "data is an iterable of batches: a DataLoader, or a list of tensors, tuples, mappings or surgeon.Inputs"


@dataclass(frozen=True)
class Sample:
    """One call of the network. labels: of the same batch, None where there are none."""

    inputs: Inputs
    labels: Any = None

    def singles(self) -> Iterator[Sample]:
        """Examples one by one; the whole where its tensors share no batch dimension."""
        count = self.inputs.batch
        if count < 2:
            yield self
        for i in range(count if count > 1 else 0):
            one = self.inputs.map(lambda x, i=i: x[i : i + 1] if x.dim() else x)
            yield Sample(one, _part(self.labels, i, count))


RECOVERY = ("select", "allocate", "compensate")  # what data are used for beside criteria


@dataclass(frozen=True)
class Material:
    """What the user gives besides the network: data, for criteria that read any and to keep the accuracy,
    and a loss of their own. `recover`: which of RECOVERY are done; nothing without data."""

    data: Batches | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    recover: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For a plan's request: which data, and what they were used for."""
        if self.data is None:
            return {}
        return {"data": {**self.data.about, "recover": list(self.recover)}}

    @staticmethod
    def of(options: dict[str, Any]) -> Material:
        """Taken out of the options of a call: `data`, `labelled`, `loss`, `recover`. BadInput where they do not fit.

        All of RECOVERY by default, but for the selection where a criterion is named.
        """
        data, labelled = options.pop("data", None), bool(options.pop("labelled", False))
        loss: Any = options.pop("loss", None)
        if not (loss is None or callable(loss)):
            raise BadInput(
                f"loss is a {type(loss).__name__}", "give a function (output, labels) -> one number"
            )
        if data is None and labelled:
            raise BadInput("labelled=True, and there are no data", "give data=")
        asked = options.pop("recover", None)
        if data is None and asked:
            raise BadInput("recover= says what to do with data, and there are none", "give data=")
        words = RECOVERY[1:] if "criterion" in options else RECOVERY
        words = words if asked is None else tuple(asked)
        for word in words:
            if word not in RECOVERY:
                raise BadInput(
                    f"recover '{word}' does not exist", f"there are {', '.join(RECOVERY)}"
                )
        own: Callable[[Any, Any], Tensor] | None = loss  # type: ignore[assignment]
        return (
            Material(None, own) if data is None else Material(Batches(data, labelled), own, words)
        )


@dataclass
class Batches:
    """Any iterable of batches. labelled: each batch is a pair (inputs, labels).

    A batch is a tensor, a tuple of what forward takes, a mapping of its keywords, `Inputs`, or any object
    with `inputs` (an `Inputs`) and `labels`. An iterator, which can be read once, is kept in a list.
    """

    source: Iterable[Any]
    labelled: bool = False
    _again: Iterable[Any] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.source, (Tensor, str, bytes)) or not hasattr(self.source, "__iter__"):
            raise BadInput(f"data is a {type(self.source).__name__}, no iterable of batches", _HOW)
        once = hasattr(self.source, "__next__")
        self._again = list(self.source) if once else self.source

    @property
    def about(self) -> dict[str, Any]:
        """What the source says of itself (`surgeon.open_data`'s does)."""
        return dict(getattr(self.source, "about", {}))

    def __iter__(self) -> Iterator[Sample]:
        count, found = 0, False
        for batch in self._again:
            found, sample = True, self._sample(batch)
            _refuse_broken(sample.inputs, count)
            count += sample.inputs.batch or 1
            yield sample
        if not found:
            raise BadInput("data is empty: there is no batch in it", _HOW)

    def _sample(self, batch: Any) -> Sample:
        if isinstance(inputs := getattr(batch, "inputs", None), Inputs):
            return Sample(inputs, getattr(batch, "labels", None))
        if not self.labelled:
            return Sample(Inputs.of(batch))
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise BadInput(
                f"labelled data are pairs (inputs, labels); a batch is a {type(batch).__name__}",
                "give pairs, or leave out labelled=True",
            )
        return Sample(Inputs.of(batch[0]), batch[1])


def _refuse_broken(inputs: Inputs, before: int) -> None:
    """What is fitted to NaN is NaN. before: examples in the batches before."""
    for tensor in inputs.tensors:
        if not tensor.is_floating_point() or not bool(tensor.isnan().any()):
            continue  # an infinity may be a mask
        rows = tensor.isnan().reshape(tensor.shape[0] if tensor.dim() else 1, -1).any(1)
        first = before + int(rows.nonzero()[0]) + 1
        raise BadInput(f"data: example {first} holds NaN", "leave it out, or mend it")


def _part(labels: Any, i: int, count: int) -> Any:
    """The labels of example i."""
    if isinstance(labels, Tensor) and labels.dim() and labels.shape[0] == count:
        return labels[i : i + 1]
    return [labels[i]] if isinstance(labels, (list, tuple)) and len(labels) == count else labels
