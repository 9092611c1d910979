"""The program that times networks, the same on this machine and on a device: packed into one file, it needs
Python 3.8, numpy and a runtime there, and nothing else of surgeon.

`python runner.pyz FOLDER` reads FOLDER/job.json and prints one marked line with the answer (`__main__`).
"""

import io
import zipfile
from pathlib import Path

MARK = "surgeon-runner: "  # before the one line on stdout that is the answer


def packed() -> bytes:
    """This folder as a .pyz that Python runs by itself; the same bytes for the same code."""
    here = Path(__file__).parent
    sources = sorted(here.rglob("*.py"))
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:

        def put(name: str, text: str) -> None:
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)

        put("__main__.py", "from surgeon.runner.__main__ import main\n\nmain()\n")
        put("surgeon/__init__.py", "")  # not the package's own, which knows torch
        for path in sources:
            name = path.relative_to(here).as_posix()
            put("surgeon/runner/" + name, path.read_text(encoding="utf-8"))
    return whole.getvalue()
