"""Importance criteria: group -> one score a channel. The lowest go first."""

from surgeon.score.criteria import CRITERIA, Criterion, criterion, scores_of
from surgeon.score.weights import Weights

__all__ = ["CRITERIA", "Criterion", "Weights", "criterion", "scores_of"]
