"""`surgeon device`: what a device is, what it has for timing, and what it lacks."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli import options as o
from surgeon.cli.screen import Screen

Place = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="local, ssh://user@host, adb or adb:SERIAL"),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", metavar="NAME", help="Runtime that is wanted there; repeatable"),
]


def device(
    place: Place = "local",
    runtime: Runtimes = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show a device: machine, Python, runtimes, governor, temperature, and what to install."""
    from surgeon.devices.look import look
    from surgeon.report import tables

    screen = Screen(json, quiet)
    screen.step(f"look at {place}")
    found = look(place, tuple(runtime or ("ort",)))
    screen.show(tables.device(found))
    for lack in found["missing"]:
        screen.show(
            f"missing: {lack['what']}", *([f"    {lack['command']}"] if lack["command"] else [])
        )
    if found["then"]:
        screen.show(f"then name the device: {found['then']}")
    screen.data(found)
