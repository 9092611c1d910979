"""`surgeon env`: versions and hardware, for a bug report."""

from __future__ import annotations

from surgeon.cli import options as o
from surgeon.cli.screen import Screen


def env(json: o.Json = False) -> None:
    """Show versions and hardware, for a bug report."""
    from surgeon.report import tables
    from surgeon.report.environment import environment

    screen = Screen(json)
    found = environment()
    screen.show(tables.environment(found))
    screen.data(found)
