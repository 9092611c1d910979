"""Small networks, one per hard case: each holds one trap that a careless tool falls into.

`NETS` maps a name to its `Case`. Nearly all of them are a conv `stem` (or a linear `embed`), the trap in
`body`, and a `head` over the pooled result, so that what precedes and follows the trap can be cut too.
"""

import importlib

from nets.case import NETS, Case, build, draw, image, net, randomise, tensors, tokens, words

__all__ = [
    "NETS",
    "Case",
    "build",
    "draw",
    "image",
    "net",
    "randomise",
    "tensors",
    "tokens",
    "words",
]

for _family in "convolution branching movement reshape mixing loose shared attention heads recurrence detection interface refused data standardised positions interleaved rare people sparse".split():
    importlib.import_module(f"nets.{_family}")
