"""Scripts that print their environment and one table; the peer in the same run."""
