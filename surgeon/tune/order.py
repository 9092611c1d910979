"""Which examples are held out, and which are trained on when: from the seed alone, whoever asks."""

from __future__ import annotations

from random import Random

from surgeon.errors import BadInput

_MOST_HELD_OUT = 5000  # more say no more about which epoch is best


def split(indices: list[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Training and validation examples, at least one of each; the validation ones in random order."""
    if len(indices) < 2:
        raise BadInput(f"{len(indices)} examples are too few to tune on", "give more data")
    mixed = Random(f"split {seed}").sample(indices, len(indices))
    held = min(max(1, round(share * len(mixed))), _MOST_HELD_OUT, len(mixed) - 1)
    return mixed[held:], mixed[:held]


def steps_of(count: int, batch: int, processes: int) -> tuple[int, int]:
    """Examples a step, and steps an epoch; a batch splits evenly over the processes.

    Raises BadInput where it does not.
    """
    if batch % processes:
        raise BadInput(
            f"a batch of {batch} does not split over {processes} processes",
            f"a multiple of {processes}: --batch {max(1, batch // processes) * processes}",
        )
    batch = min(batch, count // processes * processes)
    if not batch:
        raise BadInput(f"{count} examples for {processes} processes", "give more data")
    return batch, count // batch


def epoch_order(indices: list[int], batch: int, epoch: int, seed: int) -> list[list[int]]:
    """The epoch's whole batches; what is left over has its turn in another epoch."""
    mixed = Random(f"epoch {seed} {epoch}").sample(indices, len(indices))
    return [mixed[at : at + batch] for at in range(0, len(mixed) // batch * batch, batch)]


def parts(indices: list[int], batch: int) -> list[list[int]]:
    """All of them, in order, the last batch as it comes."""
    return [indices[at : at + batch] for at in range(0, len(indices), batch)]
