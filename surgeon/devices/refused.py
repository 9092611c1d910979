"""Why OpenSSH did not connect, in one sentence with what to do, from what it printed."""

from __future__ import annotations

import re
import shlex

from surgeon.devices.address import Address
from surgeon.errors import BadInput

_UP = "is it switched on, and in the same network? try {login}"
_REASONS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{name} has another host key than the one that is known here",
        "if it was set up anew: ssh-keygen {known}, then connect once by hand: {login}",
    ),
    (
        "Host key verification failed",
        "the host key of {name} is not known here",
        "connect once by hand and compare it: {login}",
    ),
    (
        "Permission denied|Too many authentication failures",
        "{name} refuses the login",
        "surgeon asks for no password: `{login}` must work without one (ssh-copy-id, ssh-add; is the user right?)",
    ),
    ("Could not resolve hostname", "there is no host {host}", "is the name right? try {login}"),
    ("Connection refused", "{name} answers, but nothing there takes ssh connections", _UP),
    (
        "timed out|No route to host|Network is unreachable|Host is down",
        "{name} cannot be reached",
        _UP,
    ),
    (
        "Bad configuration option|bad configuration options|Bad owner or permissions",
        "your ssh configuration cannot be used: {line}",
        "{login} says the same",
    ),
)
_HOLDER = re.compile(r"^Offending .*key in (.+):\d+$", re.MULTILINE)
_KNOWN_AS = re.compile(r"^Host key for (\S+) has changed", re.MULTILINE)
_UNKNOWN = ("there is no connection to {name}: {line}", "try {login}")


def refused(printed: list[str], address: Address) -> BadInput:
    """The error for an `ssh` that ended before anything ran there; `printed` are its lines."""
    lines = [line.strip() for line in printed if line.strip()]
    whole = "\n".join(lines)
    found = next((r for r in _REASONS if re.search(r[0], whole, re.IGNORECASE)), None)
    pattern, (message, hint) = (found[0], found[1:]) if found else ("", _UNKNOWN)
    told = next((line for line in lines if pattern and re.search(pattern, line, re.IGNORECASE)), "")
    words = {
        "name": address.text,
        "host": address.host,
        "login": login(address),
        "known": shlex.join(_known(whole, address)),
        "line": told or (lines or ["ssh says nothing"])[-1],
    }
    return BadInput(message.format(**words), hint.format(**words))


def _known(printed: str, address: Address) -> list[str]:
    """What `ssh-keygen` is to forget. ssh says the name, which may be of the user's configuration, and the file that holds it."""
    said, holder = _KNOWN_AS.search(printed), _HOLDER.search(printed)
    own = f"[{address.host}]:{address.port}" if address.port not in (None, 22) else address.host
    return [*(["-f", holder[1]] if holder else []), "-R", said[1] if said else own]


def login(address: Address) -> str:
    """What the user can type: `ssh -p 2222 pi@host`."""
    port = f"-p {address.port} " if address.port else ""
    return f"ssh {port}{address.user + '@' if address.user else ''}{address.host}"
