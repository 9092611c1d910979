"""What is silenced, and that nothing stays silenced."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings

import pytest

from surgeon.quiet import mute, quiet, silent


def noise() -> None:
    print("printed")
    print("complained", file=sys.stderr)
    logging.getLogger("other").critical("logged")
    warnings.warn("warned", stacklevel=1)


@pytest.mark.filterwarnings("error")
def test_quiet_hides_logs_and_warnings_but_no_prints(capsys, caplog):
    with quiet():
        noise()
    assert capsys.readouterr() == ("printed\n", "complained\n")
    assert not caplog.records


@pytest.mark.filterwarnings("error")
def test_mute_hides_prints_too(capsys, caplog):
    with mute():
        noise()
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_silent_hides_what_compiled_code_writes(capfd):
    compiled = ctypes.CDLL(None)
    with silent():
        compiled.puts(b"to a buffer of its own")
        os.write(2, b"at once")
        noise()
    compiled.puts(b"afterwards")
    compiled.fflush(None)
    assert capfd.readouterr() == ("afterwards\n", "")


@pytest.mark.parametrize("silence", [quiet, mute, silent])
def test_afterwards_all_is_as_it_was_also_when_it_fails(silence):
    before = logging.root.manager.disable, list(warnings.filters), sys.stdout, sys.stderr
    logging.disable(logging.DEBUG)
    try:
        with pytest.raises(KeyError), silence():
            raise KeyError
        assert logging.root.manager.disable == logging.DEBUG
        assert (list(warnings.filters), sys.stdout, sys.stderr) == before[1:]
    finally:
        logging.disable(before[0])
