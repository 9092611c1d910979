"""Files below a folder, or in a zip: their names, sorted, and their bytes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from surgeon.errors import BadInput


class Folder:
    """The files below a directory; links are followed, as torchvision does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Of every file, relative, with '/', sorted."""
        found = []
        for where, _, files in os.walk(self.path, followlinks=True):
            inside = Path(where).relative_to(self.path)
            found += [(inside / name).as_posix() for name in files]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()


class Zip:
    """The files of a zip below a folder inside; nothing is unpacked to disk."""

    def __init__(self, path: Path, inside: str = "") -> None:
        self.path = path
        self.inside = f"{inside.strip('/')}/" if inside.strip("/") else ""
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.inside.rstrip('/')}" if self.inside else str(self.path)

    def names(self) -> list[str]:
        """Of every file, relative, with '/', sorted."""
        start = len(self.inside)
        names = self._archive().namelist()
        return sorted(n[start:] for n in names if n.startswith(self.inside) and n[-1] != "/")

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return self._archive().read(self.inside + name)

    def _archive(self) -> zipfile.ZipFile:
        # a process that was forked off must not share the place where another reads
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError) as error:
                raise BadInput(f"{self.path} cannot be read as a zip: {error}") from error
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}


Tree = Folder | Zip


def open_tree(ref: str) -> Tree | None:
    """The folder or zip that `ref` names: DIR, FILE.zip, FILE.zip:train or FILE.zip/train; None for neither."""
    path = Path(ref)
    if path.is_dir():
        return Folder(path)
    start, found, inside = ref.partition(".zip")
    archive = Path(start + found)
    if not found or not archive.is_file() or inside[:1] not in ("", ":", "/"):
        return None
    return Zip(archive, inside[1:])


def visible(name: str) -> bool:
    """Whether a file is the user's: no part of its name is hidden, or what macOS adds to a zip."""
    return not any(p.startswith(".") or p == "__MACOSX" for p in PurePosixPath(name).parts)
