"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgeon.errors import BadInput


def regular(path: Path) -> Path:
    """The file behind `path`, links followed. BadInput where it is there and is no plain file."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise BadInput(f"{path} is not a plain file, and is not replaced", "name a file to write")
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it on success and is removed on any failure."""
    path = regular(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror or error}", "choose another folder with -o"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror or error}", otherwise(error)
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def otherwise(error: OSError) -> str:
    """What to do about a file that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return f"{'free some space, or ' if full else ''}choose another folder with -o"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
