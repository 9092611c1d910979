"""The commands that take a result further, with this result's own files and options."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from surgeon.measure.readers import READ_ONNX

Command = dict[str, str]  # what, language, text
_USUAL = {"device": "local", "runtime": "ort", "threads": 1}


def commands(report: Mapping[str, Any]) -> list[Command]:
    """Load, export, time, prove, serve: what the written files allow."""
    return [*_python(report), *_shell(report), *_service(report)]


def _python(report: Mapping[str, Any]) -> Iterator[Command]:
    place = _place(report)
    if "slim.pth" in report["files"]:
        yield _one(
            "Load in PyTorch",
            "python",
            f"import surgeon\n\nmodel = surgeon.load({str(place / 'slim.pth')!r})",
        )
    if "slim.pt2" in report["files"]:
        yield _one(
            "Load with torch alone",
            "python",
            f"import torch\n\nmodel = torch.export.load({str(place / 'slim.pt2')!r}).module()",
        )
    if "slim.onnx" in report["files"]:
        yield _one(
            "Run in ONNX Runtime",
            "python",
            _RUN.replace("PATH", repr(str(place / "slim.onnx"))),
        )


def _shell(report: Mapping[str, Any]) -> Iterator[Command]:
    place, source = _place(report), report["model"].get("source") or "MODEL"
    arch = report.get("arch")
    known = ("--arch", arch) if arch and arch != source else ()
    slim = str(place / "slim.pth")
    yield _line("Export to ONNX", "export", slim, "-o", "slim.onnx")
    yield _line("Export in eight bits", "export", slim, "--int8", "--data", "DIR")
    target = _target(report)
    onnx = "slim.onnx" in report["files"] and target.get("runtime", "ort") in READ_ONNX
    after = str(place / "slim.onnx") if onnx else slim
    where = [word for key, value in target.items() for word in (f"--{key}", str(value))]
    yield _line("Time both, interleaved", "bench", source, after, *known, *_sizes(report), *where)
    yield _line("Prove it again", "check", source, slim, *known)
    again = ("apply", str(place / "plan.json"), "OTHER", "-o", "other-slim")
    yield _line("Cut the same from other weights", *again, *(("--arch", arch) if arch else ()))
    yield _line("Train it further", "tune", slim, "--data", "DIR", "--teacher", source, *known)


def _target(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the limits were measured on, as far as it is not what is timed on anyway."""
    found = (report.get("limited") or {}).get("target") or {}
    return {key: found[key] for key, usual in _USUAL.items() if found.get(key, usual) != usual}


def _sizes(report: Mapping[str, Any]) -> tuple[str, ...]:
    """--input, where the recorded inputs can be said so: of one example where the file was made for one."""
    parts, entries = [], report["model"].get("inputs") or ()
    if not all(entry.get("shape") for entry in entries):
        return ()
    batched = len({entry["shape"][0] for entry in entries}) == 1
    for entry in entries:
        shape = [1, *entry["shape"][1:]] if report.get("limited") and batched else entry["shape"]
        kind = "" if entry["dtype"] == "float32" else f":{entry['dtype']}"
        name = f"{entry['name']}=" if "name" in entry else ""
        parts.append(name + ",".join(map(str, shape)) + kind)
    return ("--input", ";".join(parts)) if parts else ()


def _service(report: Mapping[str, Any]) -> Iterator[Command]:
    if "slim.onnx" not in report["files"]:
        return
    path = str(_place(report) / "slim.onnx")
    yield _one("Serve over HTTP: .npz in, .npz out", "python", _SERVICE.replace("PATH", repr(path)))


_RUN = """\
import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(PATH)
kinds = {"tensor(int64)": np.int64, "tensor(bool)": np.bool_}
inputs = {  # put your own here
    x.name: np.zeros([n if isinstance(n, int) else 1 for n in x.shape], kinds.get(x.type, np.float32))
    for x in session.get_inputs()
}
outputs = session.run(None, inputs)"""

_SERVICE = """\
import io
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(PATH)
names = [x.name for x in session.get_outputs()]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        inputs = dict(np.load(io.BytesIO(body)))  # one array an input, by its name
        answer = io.BytesIO()
        np.savez(answer, **dict(zip(names, session.run(None, inputs))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.getvalue())


ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()"""


def _place(report: Mapping[str, Any]) -> PurePath:
    return PurePath(report.get("output") or ".")


def _line(what: str, *words: str) -> Command:
    return _one(what, "shell", shlex.join(("surgeon", *words)))


def _one(what: str, language: str, text: str) -> Command:
    return {"what": what, "language": language, "text": text}
