"""torch.compile on the CPU, from the same .pt2 as `torch`; the first run compiles, and needs a C++ compiler there."""

from __future__ import annotations

from typing import Any

from surgeon.runner.engines import torch as eager

library = eager.library


class Engine(eager.Engine):
    """The module compiled by inductor, with nothing in its cache."""

    advice = "it takes a C++ compiler there, such as g++; --runtime torch does without"

    def prepared(self, module: Any) -> Any:
        return self._torch.compile(module, dynamic=False)
