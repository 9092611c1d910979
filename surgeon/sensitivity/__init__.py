"""Sensitivity: what the outputs lose when one group alone is cut, at several ratios, kept in a file."""
