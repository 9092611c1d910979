"""Sparse networks: what of their zeros can be cut away, and making networks sparse."""
