"""The output folder: made beside its place, moved there only when everything in it is whole.

Whatever happens before `publish` (a failed check, a full disk, Ctrl-C), what was there is still there.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from surgeon.errors import BadInput
from surgeon.files.atomic import otherwise
from surgeon.measure.readers import READERS

_READ = dict.fromkeys(f"slim{reader.suffix}" for reader in READERS.values())
MODELS = ("slim.pth", "slim.safetensors", *_READ, "slim.onnx.data")
FILES = (*MODELS, "plan.json", "report.json", "report.html")


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A fresh folder on the file system of `out`, gone afterwards with what was not published.

    Raises BadInput where `out` could not be written: before the long work, not after it.
    """
    try:
        if out.is_dir():
            home = out
        else:
            _guard(out)
            home = next(p for p in out.absolute().parents if p.exists())
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=home))
    except OSError as error:
        raise _cannot(out, error) from error
    try:
        yield stage
    except OSError as error:
        raise _cannot(out, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, out: Path) -> None:
    """Move what was made into its place; files that an earlier run left and this one lacks go.

    A folder that is not there yet appears whole. In one that is, each file is replaced whole.
    """
    with _uninterrupted():
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            stage.chmod(0o777 & ~_umask())
            stage.rename(out)
            return
        made = {file.name for file in stage.iterdir()}
        for name in made:
            os.replace(stage / name, out / name)
        for name in set(FILES) - made:
            (out / name).unlink(missing_ok=True)


def _guard(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise BadInput(f"{out} is a file, not a folder", "name another folder with -o")


def _cannot(out: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {out}: {error.strerror or error}", otherwise(error))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the files are moved, which takes a millisecond: they belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
