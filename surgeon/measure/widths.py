"""The widths that a target's kernels like: known, or found by timing single layers there.

A width is worth having when every wider layer takes longer, and when it is no worse by the multiply-add than the next
narrower one. Where 52 channels take as long as 64, kernels work on blocks; where 61 take longer than 64, they do
without their blocks for counts that do not divide.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.budget.align import KINDS, Grid, Widths, block_of_this_cpu
from surgeon.devices import open_device
from surgeon.errors import SurgeonError
from surgeon.files.atomic import write_text
from surgeon.measure.bench import Entry, race
from surgeon.measure.latency import Budget
from surgeon.measure.readers import READ_ONNX
from surgeon.measure.target import Target

if TYPE_CHECKING:
    import onnx

PROBED = (4, 8, 12, 16, 24, 32, 40, 48, 52, 56, 60, 61, 62, 63, 64, 65, 66, 68, 80)
_FORMAT = 2  # of what is kept
_AGREE = 2  # probes that must say the same
_TRIES = 4
_LAYERS = 3  # in a row, so that what comes before and after them weighs little
_PIXELS = 14
_ROWS = 98
_SLACK = (
    0.02  # a wider layer takes longer by more than this, or the narrower one is not worth having
)
_WASTE = 0.05  # more time for a multiply-add than a narrower layer takes, and a width is not worth having
_BUDGET = Budget(warmup_runs=2, warmup_s=0.0, min_runs=8, min_s=0.0, precision=1.0)

# ONNX Runtime, OpenVINO and PyTorch on x86 work on a vector register of channels. Below one block ONNX Runtime's
# spatial convolutions go down with the width, its 1x1 and depthwise ones do not. Elsewhere 8 fills any register.
_X86 = ("x86_64", "AMD64", "i686")


def known(target: Target) -> Widths:
    """What is known of a runtime on this kind of CPU, without timing anything."""
    if target.runtime not in (*READ_ONNX, "torch", "torch-compile"):
        return Widths.multiples(8)
    block = block_of_this_cpu()
    if target.device != "local":
        block = 16 if open_device(target.device).probe()["machine"] in _X86 else 4
    whole, part = Grid(block, block), Grid(block, min(4, block))
    return Widths({"conv": part, "pointwise": whole, "depthwise": whole, "linear": part})


def probed(target: Target, cache: Path | None = None) -> Widths:
    """What timing single layers on the target says, which takes some seconds, once for a runtime, version and CPU.

    cache: a file of what was found before; by default surgeon's own in the user's cache folder. A runtime that does
    not read ONNX files is not probed: `known` says what is known of it.
    """
    if target.runtime not in READ_ONNX:
        return known(target)
    cache = cache or _own_cache()
    place = open_device(target.device).probe()
    version = (place.get("runtimes") or {}).get(target.runtime)
    key = f"{_FORMAT}: {target.runtime} {version}, {target.threads} threads, {place.get('cpu')}"
    kept = _read(cache).get(key)
    if kept is None:
        kept = _agreed(target)
        if kept is None:  # too noisy a machine to tell: nothing is kept, the next run tries again
            return known(target)
        with suppress(
            OSError, SurgeonError
        ):  # where nothing can be kept, the next run probes again
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache, json.dumps({**_read(cache), key: kept}) + "\n")
    return Widths(
        {kind: Grid(*kept["grids"][kind]) for kind in KINDS},
        {kind: {int(w): size for w, size in kept["sizes"][kind].items()} for kind in KINDS},
    )


def _agreed(target: Target) -> dict[str, Any] | None:
    """What two probes said alike of each kind, and the sizes of the last one; None where four do not agree."""
    seen: list[dict[str, Grid]] = []
    for _ in range(_TRIES):
        told = times(target)
        seen.append(grids(told))
        votes = {kind: Counter(one[kind] for one in seen).most_common(1)[0] for kind in KINDS}
        if all(count >= _AGREE for _, count in votes.values()):
            return {
                "grids": {kind: grid for kind, (grid, _) in votes.items()},
                "sizes": sizes(told),
            }
    return None


def sizes(seconds: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    """By kind: the channels that a width costs, when 64 cost 64; of layers that make as many as they take, each side's.

    What a run takes besides its layers is told from 32 and 64 channels, of which the one costs a quarter of the other
    (half of it, where channels meet none but themselves).
    """
    found: dict[str, dict[int, float]] = {}
    for kind, told in seconds.items():
        power = 1 if kind == "depthwise" else 2
        fixed = (2**power * told[32] - told[64]) / (2**power - 1)
        fixed = min(max(fixed, 0.0), 0.9 * min(told.values()))
        shares = {w: (told[w] - fixed) / (told[64] - fixed) for w in sorted(told) if w <= 64}
        found[kind] = {w: max(64 * share ** (1 / power), float(w)) for w, share in shares.items()}
    return found


def times(target: Target) -> dict[str, dict[int, float]]:
    """Seconds of layers of each kind by width, as many channels in as out, interleaved on the target.

    The lower ends of intervals, of eight runs the quickest: what slows a run down is somebody else's work.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        entries = {}
        for kind, width, model, shape in _models():
            path = Path(folder) / f"{kind}-{width}.onnx"
            path.write_bytes(model.SerializeToString())
            noise = np.random.default_rng(0).standard_normal(shape, np.float32)
            entries[path.stem] = Entry(path, (noise,), target.runtime, target.threads)
        seen = race(entries, target.device, _BUDGET)
    return {
        kind: {width: seen.timings[f"{kind}-{width}"].low_s for width in PROBED} for kind in KINDS
    }


def grids(seconds: Mapping[str, Mapping[int, float]]) -> dict[str, Grid]:
    """By kind of layer: the coarsest steps that lose no width worth having.

    >>> steady = {w: float(w) for w in PROBED}
    >>> blocks = {w: float(-(-w // 16)) for w in PROBED}
    >>> grids({"linear": steady, "conv": blocks})
    {'linear': Grid(block=2, fine=2), 'conv': Grid(block=16, fine=16)}
    """
    return {kind: _grid(told) for kind, told in seconds.items()}


def _grid(seconds: Mapping[int, float]) -> Grid:
    worth = set(_worth(seconds))
    wide = [w for w in worth if w >= 32]
    block = next(b for b in (32, 16, 8, 4, 2, 1) if not any(w % b for w in wide))
    below = {f: [w for w in seconds if w < block and w % f == 0] for f in (4, 8)}
    fine = next((f for f, narrow in below.items() if narrow and worth.issuperset(narrow)), block)
    return Grid(block, min(fine, block))


def _worth(seconds: Mapping[int, float]) -> Iterator[int]:
    """Widths worth having: any wider one takes longer, and the next narrower one is no better by the multiply-add."""
    last = None
    for width in sorted(seconds):
        if any(seconds[w] <= seconds[width] * (1 + _SLACK) for w in seconds if w > width):
            continue
        if last is None or seconds[width] / seconds[last] <= (width / last) ** 2 * (1 + _WASTE):
            yield width
            last = width


def _models() -> Iterator[tuple[str, int, onnx.ModelProto, tuple[int, ...]]]:
    """(kind, width, model, shape of its input) of every layer that is timed."""
    for kind in KINDS:
        for width in PROBED:
            shape = (1, _ROWS, width) if kind == "linear" else (1, width, _PIXELS, _PIXELS)
            yield kind, width, _model(kind, width, shape), shape


def _model(kind: str, width: int, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A few layers of one kind and width in a row, with noise for weights."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    side = 1 if kind == "pointwise" else 3
    groups = width if kind == "depthwise" else 1
    linear = kind == "linear"
    weight = (width, width) if linear else (width, width // groups, side, side)
    how: dict[str, Any] = {} if linear else {"pads": [side // 2] * 4, "group": groups}
    noise = np.random.default_rng(0)
    nodes, weights = [], []
    for k in range(_LAYERS):
        weights.append(numpy_helper.from_array(noise.standard_normal(weight, np.float32), f"w{k}"))
        name = "MatMul" if linear else "Conv"
        nodes.append(helper.make_node(name, [f"x{k}", f"w{k}"], [f"x{k + 1}"], **how))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("x0", f"x{_LAYERS}")
    ]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 17)  # old enough for any runtime that is in use
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def _own_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("surgeon") / "widths.json"


def _read(cache: Path) -> dict[str, Any]:
    """What was found before; nothing where the file is not there or was damaged."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
