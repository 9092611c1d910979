"""What a runner printed: its one marked line as data, or its refusal as an error of ours."""

from __future__ import annotations

import json
from typing import Any

from surgeon.errors import BadInput
from surgeon.runner import MARK


def read_answer(stdout: str, stderr: str, where: str) -> dict[str, Any]:
    """What the answer holds under "ok"; BadInput with the runner's own message, or with what it said last."""
    line = next((one for one in stdout.splitlines() if one.startswith(MARK)), None)
    if line is None:
        said = (stderr.strip() or "it said nothing").splitlines()[-1]
        raise BadInput(f"the runner ended without an answer {where}: {said}", "run it again")
    try:
        answer = json.loads(line[len(MARK) :])
    except ValueError as error:
        raise BadInput(f"the runner's answer was cut off {where}", "run it again") from error
    if "error" in answer:
        raise BadInput(answer["error"]["message"], answer["error"]["hint"] or None)
    return answer["ok"]
