"""Silence while code of others runs: no log line, no warning, and where it prints, nothing on a stream."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


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
    """As `mute`, and what compiled code writes to standard error does not show either."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        with mute():
            yield
        return
    try:
        with open(os.devnull, "wb") as nowhere, mute():
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
