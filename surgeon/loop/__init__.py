"""Cutting inside a user's own training loop."""

from surgeon.loop.penalties import PENALTIES, Pressed, penalty
from surgeon.loop.pruner import Pruner

__all__ = ["PENALTIES", "Pressed", "Pruner", "penalty"]
