"""Silence while code of others runs: no log line, no warning, and where it prints, nothing on a stream."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress


@contextmanager
def quiet() -> Iterator[None]:
    """No log line and no warning; filters and levels are afterwards what they were."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def mute() -> Iterator[None]:
    """As `quiet`, and nothing that is printed shows."""
    nowhere = io.StringIO()
    with quiet(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def silent() -> Iterator[None]:
    """As `mute`, and what compiled code writes to either stream does not show."""
    with mute(), ExitStack() as stack:
        for stream in (1, 2):
            stack.enter_context(_closed(stream))
        yield


@contextmanager
def _closed(stream: int) -> Iterator[None]:
    """The stream of this number leads nowhere inside."""
    try:
        kept = os.dup(stream)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            _flush()  # what was written before shows
            os.dup2(nowhere.fileno(), stream)
            yield
    finally:
        _flush()
        os.dup2(kept, stream)
        os.close(kept)


def _flush() -> None:
    """Compiled code keeps what it writes until there is enough of it."""
    with suppress(OSError, AttributeError, TypeError):  # where C's own library has another name
        ctypes.CDLL(None).fflush(None)
