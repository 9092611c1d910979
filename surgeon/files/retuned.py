"""Tuned weights in the file that the network came from: all else of it stays, and it says that they were tuned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.atomic import write_bytes
from surgeon.files.slim import plan_of
from surgeon.plan import Plan


def save_tuned(
    model: nn.Module, path: str | Path, payload: Mapping[str, Any], how: Mapping[str, Any]
) -> Plan:
    """Write slim.pth with `model`'s weights; payload is the slim document that it was loaded from.

    how: plain data about the tuning, kept in the plan under model.tuned. Gives that plan. Raises
    BadInput where the weights are not those of the document.
    """
    state = {n: t.detach().cpu().clone() for n, t in model.state_dict().items()}
    old = payload["state"]
    if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in old.items()}:
        raise BadInput(
            "these weights are not of the slim file's network", "save the model that was loaded"
        )
    plan = plan_of(payload).marked(how)
    packed = BytesIO()
    torch.save({**payload, "state": state, "plan": json.dumps(plan.to_json())}, packed)
    write_bytes(Path(path), packed.getbuffer())
    return plan
