"""What people write after an option, as values. Says which option cannot be read, and how to write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from surgeon.errors import BadInput

_LONGEST = 1_000_000  # channels in one written range: more is a slip of the finger, not a layer


def share(text: str, option: str = "--ratio") -> float:
    """'0.5' or '50%' -> 0.5."""
    number = text.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise BadInput(
            f"{option} {text!r} is not a number", "the share of channels to remove: 0.5 or 50%"
        ) from None


def shares(texts: Iterable[str] | None) -> dict[str, float]:
    """['layer4.*=0.7'] -> {'layer4.*': 0.7}."""
    pairs = [_pair(text, "--ratio-for", "layer4.*=0.7") for text in texts or ()]
    return {glob: share(value, f"--ratio-for {glob}") for glob, value in pairs}


def positions(texts: Iterable[str] | None) -> dict[str, list[int]]:
    """['conv1=0,3,5-9'] -> {'conv1': [0, 3, 5, 6, 7, 8, 9]}; a layer named twice has both."""
    found: dict[str, list[int]] = {}
    for text in texts or ():
        layer, wanted = _pair(text, "--remove", "layer1.0.conv1=0,3,5-9")
        found.setdefault(layer, []).extend(_indices(wanted, text))
    return found


def ratios(text: str) -> tuple[float, ...]:
    """'0.1,0.5' -> (0.1, 0.5); '0.1..0.4' -> (0.1, 0.2, 0.3, 0.4); '0.2..0.8:0.3' -> (0.2, 0.5, 0.8)."""
    ends, dots, rest = text.partition("..")
    if not dots:
        return tuple(share(part, "--ratios") for part in text.split(","))
    last, _, step = rest.partition(":")
    low, high = share(ends, "--ratios"), share(last, "--ratios")
    by = share(step, "--ratios") if step else 0.1
    if not 0 < low <= high < 1 or by < 0.001:
        raise BadInput(
            f"--ratios {text!r} cannot be read", "write 0.1..0.9, 0.2..0.8:0.3 or 0.1,0.5"
        )
    count = int((high - low) / by + 1e-9) + 1
    return tuple(round(low + k * by, 6) for k in range(count))


def multiple(text: str | None) -> int | str | None:
    """'auto', '8' or nothing."""
    if text is None or text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise BadInput(f"--round-to {text!r} is not a positive number", "write 8, 16 or auto")
    return int(text)


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """'0.5,0.4,0.3' -> (0.5, 0.4, 0.3)."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(
            f"{option} {text!r} is not a list of numbers", f"write {option} 0.485,0.456,0.406"
        ) from None


def parts(text: str | None) -> tuple[str, ...] | None:
    """'select,allocate' -> ('select', 'allocate'); 'none' -> ()."""
    if text is None:
        return None
    return () if text.strip() == "none" else tuple(word.strip() for word in text.split(","))


def named(texts: Iterable[str] | None, option: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """['lr=0.01', 'batch=64'] -> {'lr': 0.01, 'batch': 64}; `types` are the names that there are, and what each is."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, value = _pair(text, option, "lr=0.01")
        name = name.removeprefix("--").replace("-", "_")
        if name not in types:
            raise BadInput(f"{option} {name} does not exist", f"there are {', '.join(types)}")
        found[name] = _typed(value, types[name], f"{option} {name}")
    return found


def _typed(value: str, kind: Any, option: str) -> Any:
    kinds = (kind, *getattr(kind, "__args__", ()))
    for number in (int, float):
        if number in kinds:
            try:
                return number(value)
            except ValueError:
                raise BadInput(f"{option} {value!r} is not a number") from None
    return value


def function(reference: str, option: str) -> Any:
    """The function that 'file.py:name' names; the file is run."""
    from surgeon.files.arch import import_file

    path, _, name = reference.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise BadInput(
            f"{option} {reference!r} names no function in a file",
            f"write {option} file.py:function",
        )
    found = getattr(import_file(Path(path)), name, None)
    if not callable(found):
        raise BadInput(f"{option} {path} has no function {name!r}")
    return found


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    left, equals, right = (part.strip() for part in text.rpartition("="))
    if not (left and equals and right):
        raise BadInput(f"{option} {text!r} cannot be read", f"write {option} '{example}'")
    return left, right


def _indices(wanted: str, text: str) -> list[int]:
    found: list[int] = []
    for part in wanted.split(","):
        first, dash, last = (end.strip() for end in part.partition("-"))
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()) or int(first) > int(last):
            raise BadInput(
                f"--remove {text!r}: {part.strip()!r} is no position and no range",
                "write --remove 'layer1.0.conv1=0,3,5-9'",
            )
        if int(last) - int(first) > _LONGEST:
            raise BadInput(
                f"--remove {text!r}: no layer has that many channels", "surgeon inspect shows them"
            )
        found += range(int(first), int(last) + 1)
    return found


def limits(text: str, option: str, points: int) -> list[str]:
    """'0.9x..0.3x' -> that many limits from the one to the other, evenly; '0.9x,0.5x' -> these. BadInput for one alone."""
    from surgeon.budget.limit import Limit

    name = option.removeprefix("--").replace("-", "_")
    if ".." not in text:
        return [str(Limit.parse(one, name)) for one in text.split(",")]
    ends = [Limit.parse(one, name) for one in text.split("..", 1)]
    if not all(end.relative for end in ends):
        raise BadInput(f"{option} {text!r}: a range is of shares", f"write {option} 0.9x..0.3x")
    first, last = (end.value for end in ends)
    step = (last - first) / max(points - 1, 1)
    return [f"{round(first + k * step, 4):g}x" for k in range(points)]


def names(texts: Iterable[str] | None) -> tuple[str, ...]:
    """['ort,openvino', 'ncnn'] -> ('ort', 'openvino', 'ncnn'), each once."""
    parts = [part.strip() for text in texts or () for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def sizes(text: str | None, option: str) -> tuple[int, ...]:
    """'256,256' or '256x256' -> (256, 256); nothing -> ()."""
    if text is None:
        return ()
    parts = text.lower().replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise BadInput(f"{option} {text!r} is not a list of sizes", "write 256,256")
    return tuple(int(part) for part in parts)


def percents(text: str) -> tuple[float, ...]:
    """'p50,p90' or '50,90' -> (50.0, 90.0)."""
    try:
        found = tuple(float(part.strip().lower().removeprefix("p")) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < one < 100 for one in found):
        raise BadInput(f"--percentiles {text!r} cannot be read", "write 50,90,99")
    return found
