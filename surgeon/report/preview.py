"""What a plan would do, before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.budget.cost import Cost
from surgeon.planning import removed_by
from surgeon.report.reach import reach

if TYPE_CHECKING:
    from surgeon.pipeline.proposed import Proposal


def preview(proposal: Proposal, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The plan's request and groups, with parameters and FLOPs before and expected after.

    Raises BadInput where the plan does not fit the model.
    """
    coupling, plan = proposal.traced.coupling, proposal.plan.to_json()
    removed = removed_by(coupling, proposal.plan)
    cost = Cost(coupling)
    before, after = cost.total(np.zeros_like(removed)), cost.total(removed)
    return {
        "dry_run": True,
        "model": plan["model"],
        "request": plan["request"],
        "expected": {"before": vars(before), "after": vars(after)},
        "groups": plan["groups"],
        "left": plan["left"],
        "reach": reach(coupling).as_dict(),
        "notes": [*notes, *proposal.notes],
    }
