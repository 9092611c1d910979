"""How a user names a device: `local`, `ssh://user@host:port?python=PATH&folder=PATH`, `adb:serial?binary=PATH`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import parse_qsl, unquote

from surgeon.errors import BadInput

FORMS = "local, ssh://user@host, ssh://host:2222?python=/path/to/python, adb, adb:SERIAL"
OPTIONS = {"local": (), "ssh": ("python", "folder"), "adb": ("binary", "folder")}
_PART = re.compile(r"(?!-)[\w.%+@-]+")  # nothing that ssh or adb could take for an option
_HOST = re.compile(r"(?!-)[\w.%-]+|\[[0-9A-Fa-f:.%\w]+\]")


@dataclass(frozen=True)
class Address:
    """`kind` is local, ssh or adb; `host` is a name of ~/.ssh/config, a host or an address, and of adb the serial number
    (empty: the only device there is)."""

    kind: str
    host: str = ""
    user: str | None = None
    port: int | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As it is said in a message, without options."""
        if self.kind != "ssh":
            return f"{self.kind}:{self.host}" if self.host else self.kind
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


def address(text: str) -> Address:
    """The parts of `text`; BadInput, with what was probably meant, where it names no device."""
    whole = text.strip()
    place, _, query = whole.partition("?")
    if place.startswith("ssh://"):
        found = _ssh(place.removeprefix("ssh://"), text)
    elif place == "local" or place == "adb":
        found = Address(place)
    elif place.startswith("adb:") and _PART.fullmatch(place[4:].replace(":", "")):
        found = Address("adb", place[4:])
    else:
        raise _unknown(text, place)
    return Address(found.kind, found.host, found.user, found.port, _options(query, found.kind))


def _ssh(rest: str, text: str) -> Address:
    user, at, place = rest.removesuffix("/").rpartition("@")
    host, port = place, ""
    if place.startswith("["):
        host, _, port = place.partition("]")
        host += "]"
        port = port.removeprefix(":")
    elif ":" in place:
        host, _, port = place.partition(":")
    user = unquote(user)
    if not _HOST.fullmatch(host) or (at and not _PART.fullmatch(user)):
        raise BadInput(f"--device {text!r} names no host", "write ssh://user@host")
    if ":" in place and not place.endswith("]") and not _is_port(port):
        raise BadInput(f"--device {text!r}: {port!r} is no port", "write ssh://user@host:22")
    number = int(port) if port else None
    return Address("ssh", host.strip("[]"), user or None, number)


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536


def _options(query: str, kind: str) -> dict[str, str]:
    found = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    for name, value in found.items():
        known = OPTIONS[kind]
        if name not in known:
            near = get_close_matches(name, known, 1)
            there = (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            )
            raise BadInput(f"--device: {kind} has no option {name!r}", there)
        if not value or "\0" in value or "\n" in value:
            raise BadInput(f"--device: {name}= names nothing", f"write {kind}...?{name}=/a/path")
    return found


def _unknown(text: str, place: str) -> BadInput:
    scheme, colon, rest = place.partition(":")
    near = get_close_matches(scheme.lower(), OPTIONS, 1, 0.5)
    meant = None
    if near == ["local"] and not rest:
        meant = "local"
    elif near == ["ssh"] and colon and rest.strip("/"):
        meant = f"ssh://{rest.strip('/')}"
    elif near == ["adb"]:
        meant = f"adb:{rest.strip('/')}" if rest.strip("/") else "adb"
    elif "@" in place and "/" not in place:
        meant = f"ssh://{place}"
    hint = f"did you mean {meant}?" if meant else f"write one of {FORMS}"
    return BadInput(f"--device {text!r} is no device", hint)
