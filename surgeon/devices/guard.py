"""What runs on a device around the runner: a fresh folder there, gone when the runner is done or the connection is.

Sent as text and started by the device's Python (3.8 or later, the standard library alone); nothing here is imported
on the host but the text of this file. On stdin: one line of JSON, then the files' bytes, then now and then a byte that says
that the host is still there. On stdout: lines that begin with MARK.
"""

import contextlib
import errno
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading

MARK = "surgeon-device: "
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE = 1 << 20  # bytes that stay free beside the files
CHUNK = 1 << 18


class Gone(Exception):
    """The host has closed the connection, or nothing was heard of it for too long."""


def guard(stream):
    """Read what is to be done from `stream`, do it, leave nothing."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    order = json.loads(stream.readline().decode())
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix="surgeon-", dir=_parent(order["folder"]))
        _receive(stream, folder, order)
        _run(stream, folder, order)
    except BrokenPipeError:
        pass  # nobody listens any more
    except OSError as error:
        kind = "disk full" if error.errno in FULL else "no folder"
        _say(error=kind, message=error.strerror or str(error), free=_free(folder), folder=folder)
    except Gone:
        pass
    finally:
        _remove(folder)


def _receive(stream, folder, order):
    sizes = [size for _, size in order["files"]]
    if _free(folder) < sum(sizes) + SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _say(ready=True, **facts())
    for name, size in order["files"]:
        with open(os.path.join(folder, name), "wb") as file:
            while size:
                part = _read(stream, min(size, CHUNK), order["patience"])
                file.write(part)
                size -= len(part)


def _run(stream, folder, order):
    """The runner, in a group of its own that is killed with the connection."""
    program = [sys.executable, os.path.join(folder, order["program"]), folder]
    child = subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, TMPDIR=folder, PYTHONDONTWRITEBYTECODE="1"),
        cwd=folder,
        start_new_session=True,
    )
    gone = threading.Event()
    what = (stream, order["patience"], child, folder, gone)
    threading.Thread(target=_watch, args=what, daemon=True).start()
    try:
        code = child.wait()
        if not gone.is_set():
            _say(exit=code)
    finally:
        _kill(child)


def _watch(stream, patience, child, folder, gone):
    """End everything here, and this process, when the connection ends."""
    try:
        while True:
            _read(stream, CHUNK, patience)
    except (Gone, OSError):
        gone.set()
        _kill(child)
        _remove(folder)
        os._exit(1)


def _read(stream, most, patience):
    ready, _, _ = select.select([stream], [], [], patience)
    part = stream.read(most) if ready else b""
    if not part:
        raise Gone
    return part


def _kill(child):
    """The runner and its children; it is waited for, so that it writes nothing any more."""
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _remove(folder):
    """Tried again, as a child that was just killed may have been writing."""
    for _ in range(5):
        if folder and os.path.exists(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _leave(_number, _frame):
    raise Gone


def _parent(folder):
    return os.path.expanduser(folder) if folder else None


def _free(folder):
    try:
        return shutil.disk_usage(folder or tempfile.gettempdir()).free
    except OSError:
        return 0


def facts():
    """Of this Python: version, path, bits, whether its system manages what pip would install (PEP 668), whether it is one of
    a virtual environment; and where pip may come from: pip and ensurepip (in it), apt (there)."""
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "executable": sys.executable,
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "managed": os.path.exists(marker) and sys.prefix == sys.base_prefix,
        "virtual": sys.prefix != sys.base_prefix,
        "pip": importlib.util.find_spec("pip") is not None,
        "ensurepip": importlib.util.find_spec("ensurepip") is not None,
        "apt": shutil.which("apt-get") is not None,
    }


def _say(**what):
    sys.stdout.write(MARK + json.dumps(what) + "\n")
    sys.stdout.flush()
