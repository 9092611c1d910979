"""Importance criteria: group -> one score a channel. The lowest go first."""

from surgeon.score import activations, gradients, likeness, norms, sensitivity
from surgeon.score.batches import Batches, Material, Sample
from surgeon.score.evidence import Evidence, Original
from surgeon.score.reduce import NORMALISERS, REDUCTIONS
from surgeon.score.registry import CRITERIA, Criterion, criterion
from surgeon.score.scores import known, refuse_without_data, scores_of
from surgeon.score.weights import Weights

BUILT_IN = (norms, likeness, activations, gradients, sensitivity)  # importing them registers theirs

__all__ = [
    "BUILT_IN", "CRITERIA", "NORMALISERS", "REDUCTIONS", "Batches", "Criterion", "Evidence", "Material",
    "Original", "Sample", "Weights", "criterion", "known", "refuse_without_data", "scores_of",
]  # fmt: skip
