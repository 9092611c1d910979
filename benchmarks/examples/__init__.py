"""Worked examples: each is a script that trains, cuts and tells what was left; what its header shows came from it."""
