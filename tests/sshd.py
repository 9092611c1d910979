"""A real sshd on 127.0.0.1 as the current user: its own keys, port and configuration, and an `ssh` that knows only these."""

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_SSH = shutil.which("ssh")  # before a test puts its own into PATH
MISSING = "" if SSHD and _SSH else "needs sshd and ssh: apt-get install openssh-server"


class Sshd:
    """`with Sshd(folder) as sshd`: then `ssh device` gets there. What the device calls /tmp is `sshd.temporary`."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, force: str = ""
    ) -> None:
        self.folder, self.temporary = folder, folder / "device"
        self.temporary.mkdir(parents=True)
        self.log = folder / "sshd.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("host", "own", "other"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        shutil.copy(folder / "own.pub", folder / "authorized_keys")
        self.known((folder / "host.pub").read_text())
        there = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "TMPDIR": str(self.temporary),
            **(environment or {}),
        }
        self._configure(there, force)
        self.client()

    def __enter__(self) -> "Sshd":
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [SSHD, "-D", "-f", self.folder / "sshd_config", "-E", self.log]
        quiet = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        self._process = subprocess.Popen([str(w) for w in command], start_new_session=True, **quiet)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            assert self._process.poll() is None, self.log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError("sshd does not answer")

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._process.terminate()
        self._process.wait()

    def known(self, key: str) -> None:
        """The host key that the client knows; an empty one is none."""
        text = f"[127.0.0.1]:{self.port} {key}" if key else ""
        (self.folder / "known_hosts").write_text(text)

    def client(self, **options: str) -> None:
        """An `ssh` in `folder/bin` that reads our configuration, where `device` is this sshd."""
        config = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.folder / "own"),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "StrictHostKeyChecking": "ask",
            **options,
        }
        lines = ["Host device", *(f"  {key} {value}" for key, value in config.items())]
        (self.folder / "ssh_config").write_text("\n".join(lines) + "\n")
        program = self.folder / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {_SSH} -F {self.folder / "ssh_config"} "$@"\n')
        program.chmod(0o755)

    def cut(self) -> None:
        """Kill the processes that serve connections, as when the network goes."""
        for pid in _descendants(self._process.pid):
            if _name(pid).startswith("sshd"):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[str]:
        """What lies in the device's folder for temporary files."""
        return sorted(path.name for path in self.temporary.iterdir())

    def _configure(self, environment: Mapping[str, str], force: str) -> None:
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PidFile {self.folder / 'pid'}",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            # in the command, as a shell's own files may set PATH anew
            f"""ForceCommand export {words}; {force} eval "$SSH_ORIGINAL_COMMAND\"""",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")


def until(check: object, seconds: float = 20.0) -> bool:
    """Whether `check()` becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    parents = {int(p.name): _parent(p) for p in Path("/proc").iterdir() if p.name.isdecimal()}
    found, wave = [], [pid]
    while wave:
        wave = [child for child, parent in parents.items() if parent in wave]
        found += wave
    return found


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
