"""`python runner.pyz FOLDER`: do what FOLDER/job.json says, print one marked line, leave the rest to stderr.

With `--leased` behind, stdin is a lease: when it closes, whoever started this is gone, and so are the folder and this process.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from surgeon.runner import MARK
from surgeon.runner.refusal import Refusal, first_line


def main() -> None:
    """Exit 0 wherever the line could be printed, also when it says what went wrong."""
    out = os.dup(1)
    if sys.argv[2:] == ["--leased"]:
        threading.Thread(target=_leave, args=(sys.argv[1],), daemon=True).start()
    os.dup2(2, 1)  # runtimes print as they like, and the answer must stay the only line
    answer = _answer(sys.argv[1:])
    with os.fdopen(out, "w", encoding="utf-8") as stream:
        stream.write(MARK + json.dumps(answer) + "\n")


def _leave(folder: str) -> None:
    os.read(0, 1)  # nothing is ever written: this is its end
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _answer(arguments: list[str]) -> dict[str, Any]:
    try:
        return {"ok": _done(arguments)}
    except Refusal as refusal:
        return {"error": refusal.as_dict()}
    except MemoryError:
        return {"error": Refusal("cannot run", "not enough memory there").as_dict()}
    except Exception as error:
        traceback.print_exc()
        said = type(error).__name__ + ": " + first_line(error)
        return {"error": Refusal("bad job", said).as_dict()}


def _done(arguments: list[str]) -> dict[str, Any]:
    from surgeon.runner.job import alone, do

    if not arguments:
        raise Refusal("bad job", "no folder was named")
    if arguments[0] == "--alone":
        return alone(Path(arguments[1]), int(arguments[2]))
    return do(Path(arguments[0]))


if __name__ == "__main__":
    main()
