"""Pages that need nothing else: templates filled, scripts and style inside, nothing loaded and nothing else run."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

_STRANGE = "\N{REPLACEMENT CHARACTER}"


def fill(template: str, scripts: tuple[str, ...], given: dict[str, Any]) -> str:
    """A page of `templates/`. Text is escaped by the template; only `Markup` goes in as it is.

    Raises KeyError where the data lack what the page shows.
    """
    from jinja2 import UndefinedError

    script = "\n".join(_read(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    own = {"style": Markup(_read("style.css")), "script": Markup(script), "policy": policy}
    try:
        return _environment().get_template(template).render(**given, **own)
    except UndefinedError as error:
        raise KeyError(str(error)) from error


def readable(data: Any) -> Any:
    """The same data without what a page cannot hold or show: control characters, marks that turn text round, half
    characters. They may stand in names and in a report.json that somebody sent."""
    if isinstance(data, str):
        return "".join(c if c.isprintable() or c in "\n\t" else _STRANGE for c in data)
    if isinstance(data, dict):
        return {readable(key): readable(value) for key, value in data.items()}
    return [readable(item) for item in data] if isinstance(data, list) else data


def embedded(data: Any) -> Markup:
    """JSON for a script block: nothing in it can end the block or begin a comment."""
    text = json.dumps(data, separators=(",", ":"))
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    pages = {name: _read(name) for name in ("page.html", "report.html", "sweep.html")}
    return Environment(
        loader=DictLoader(pages),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _read(name: str) -> str:
    return (files("surgeon.report") / "templates" / name).read_text(encoding="utf-8")
