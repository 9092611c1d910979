"""Compression: how much smaller one count or size is than another."""

from __future__ import annotations


def compression(before: float, after: float) -> float:
    """before / after: 4 is a quarter of the size. No unit; 1 where both are nothing."""
    return before / after if after else (1.0 if not before else float("inf"))


def reduction(before: float, after: float) -> float:
    """1 - after / before: 0.75 is a quarter left, below 0 is grown. 0 where there was nothing."""
    return 1 - after / before if before else 0.0
