"""One connection to a device's Python, over a child process whose stdin and stdout reach there.

While the child's stdin is open the device goes on; when it closes, however that comes about, the guard there stops the
runner and removes its folder. So nothing has to be done here for that to happen.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any

from surgeon.devices import guard
from surgeon.runner import MARK

PATIENCE = 30.0  # seconds without a sign of the host after which the device gives up
_BEAT = 5.0
_PROGRAM = "runner.pyz"
_CHUNK = 1 << 20
_LINE = 2000
_KEPT = 60  # lines of what was printed there
_OLDEST = (3, 8)


@dataclass
class Heard:
    """What came back. started: the guard's own facts, None where it did not start; answer: the runner's line;
    code: how the runner ended, None where that was not heard; error: the guard's."""

    started: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    code: int | None = None
    error: dict[str, Any] | None = None
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))

    @property
    def last(self) -> str:
        """The last line that was printed there, or by the child."""
        return next((line for line in reversed(self.said) if line.strip()), "").strip()


def start_command(python: str) -> str:
    """What the device's shell is to run; the guard itself comes through stdin.

    Any shell that knows single quotes can read it, and any Python, which then says where it is too old.
    """
    old = '{"error": "old python", "version": "%d.%d.%d"}'
    code = (
        "import sys; v = sys.version_info; "
        f"v < {_OLDEST} and (sys.stdout.write('{guard.MARK}{old}' % tuple(v[:3])), sys.exit()); "
        "i = open(0, 'rb', 0); exec(eval(i.readline())); guard(i)"
    )
    none = shlex.quote(guard.MARK + '{"error": "no python"}')
    script = (
        f'p={_word(python)}; command -v "$p" >/dev/null 2>&1 || {{ echo {none}; exit 0; }}; '
        f'exec "$p" -c {shlex.quote(code)}'
    )
    return f"exec sh -c {shlex.quote(script)}"


def _word(path: str) -> str:
    """One word of a shell; a leading ~/ is the home folder there."""
    return '"$HOME"/' + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


class Link:
    """`with Link(argv) as link: heard = link.run(program, job, files)`; leaving it ends the connection."""

    def __init__(self, argv: Sequence[str], folder: str | None = None) -> None:
        self._folder = folder
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        self._events: queue.Queue[bool] = queue.Queue()  # whether that was the end
        self._ended = False
        self._done = threading.Event()
        self.heard = Heard()
        assert self._child.stdin and self._child.stdout and self._child.stderr
        self._stdin = self._child.stdin
        hear = self._start(self._hear, BufferedReader(self._child.stdout))  # type: ignore[arg-type]
        overhear = self._start(self._overhear, BufferedReader(self._child.stderr))  # type: ignore[arg-type]
        self._ears = (hear, overhear)

    def _start(self, what: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(target=what, args=args, daemon=True)
        thread.start()
        return thread

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._done.set()
        self._hang_up()
        for wait in (10.0 if kind is None else 3.0, 3.0):
            try:
                self._child.wait(wait)
                break
            except subprocess.TimeoutExpired:
                self._child.terminate()
        else:
            self._child.kill()
            self._child.wait()
        self._deaf()

    @property
    def code(self) -> int | None:
        """The child's exit code; it is waited for a moment, since its output has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(5.0)
        return None

    def run(self, program: bytes, job: dict[str, Any], files: Mapping[str, Path]) -> Heard:
        """Start the guard, send everything once, wait for the end; what was heard says how it went."""
        parts: dict[str, bytes | Path] = {
            _PROGRAM: program,
            "job.json": json.dumps(job).encode(),
            **files,
        }
        order = {
            "folder": self._folder,
            "program": _PROGRAM,
            "patience": PATIENCE,
            "files": [[name, _size(part)] for name, part in parts.items()],
        }
        source = Path(guard.__file__).read_text(encoding="utf-8")
        try:
            self._send(f"{source!a}\n{json.dumps(order)}\n".encode())
            if self._hears(lambda heard: heard.started is not None):
                self._send_files(list(parts.values()))
        except BrokenPipeError:
            pass  # why it closed is among what was heard
        self._hears(lambda heard: heard.code is not None)
        if self._ended:
            self._deaf()
        return self.heard

    def _deaf(self) -> None:
        """All that was printed has been read; what a stray child still holds open is not waited for."""
        for ear in self._ears:
            ear.join(2.0)

    def _send_files(self, parts: Sequence[bytes | Path]) -> None:
        for part in parts:
            if isinstance(part, bytes):
                self._send(part)
                continue
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    self._send(chunk)
        self._start(self._beat)

    def _hears(self, enough: Callable[[Heard], bool]) -> bool:
        """Waits until enough was heard, which is True, or an error, or until nothing more will be."""
        while not self._ended and self.heard.error is None and not enough(self.heard):
            self._ended = self._events.get()
        return enough(self.heard)

    def _hear(self, stream: BufferedReader) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\n")
                if self._take(line):
                    self._events.put(False)
                else:
                    self.heard.said.append(line[:_LINE])
        self._events.put(True)

    def _overhear(self, stream: BufferedReader) -> None:
        with stream:
            for raw in stream:
                self.heard.said.append(raw.decode(errors="replace").rstrip("\n")[:_LINE])

    def _take(self, line: str) -> bool:
        """Whether it was a marked line, which may come behind what a shell's own files printed."""
        for mark in (MARK, guard.MARK):
            _, found, text = line.partition(mark)
            if not found:
                continue
            try:
                told = json.loads(text)
            except ValueError:
                return False  # cut off in the middle
            self._note(mark, told)
            return True
        return False

    def _note(self, mark: str, told: dict[str, Any]) -> None:
        heard = self.heard
        if mark == MARK:
            heard.answer = told
        elif "error" in told:
            heard.error = told
        elif "exit" in told:
            heard.code = told["exit"]
        else:
            heard.started = told

    def _beat(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while not self._done.wait(_BEAT):
                self._send(b".")

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stdin.write(rest) :]

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()


def _size(part: bytes | Path) -> int:
    return len(part) if isinstance(part, bytes) else part.stat().st_size
