"""A result in a few lines, and its numbers as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.measure.readers import READ_ONNX, own_name
from surgeon.report.quantities import QUANTITIES

if TYPE_CHECKING:
    from surgeon.int8.quantize import Int8File
    from surgeon.pipeline.result import Result

Row = tuple[str, str, str, str]  # what, before, after, change
PLANNED = "what may be cut is planned here and not tried: shrink leaves whole what no cut copy's forward follows"
ENOUGH = 0.9  # a smaller share of parameters that may be cut is explained


def summary(result: Result) -> str:
    """Asked and reached, proof, cost before and after, what stayed."""
    lines = [f"{key}: {share:.1%} removed" for key, share in result.reached().items()]
    lines += outcome(result.as_dict())
    if result.measured:
        lines += [f"{a}: {b} -> {c}" for a, b, c, _ in rows(result.measured.as_dict())]
    return "\n".join([*lines, *(f"note: {n}" for n in result.notes)])


def outcome(report: dict[str, Any]) -> list[str]:
    """How many groups were cut, by which surgery, and how it was proven; from report.json's data."""
    cut = [g for g in report["groups"] if g["kept"] < g["size"]]
    why = f" ({report['why']})" if report["why"] else ""
    lines = [
        f"groups: {len(cut)} cut, {len(report['groups']) - len(cut) + len(report['left'])} left alone",
        f"surgery: {report['way']}{why}",
    ]
    mixed = sum(not g["exact"] for g in cut)
    if mixed:
        are = "1 group is" if mixed == 1 else f"{mixed} groups are"
        lines.append(
            f"not exact: {are} mixed by softmax or a norm: what stays is computed anew from what is kept"
        )
    if report["reach"] is not None:
        lines += reach(report["reach"])
    lines.append(proven(report["check"]))
    lines += limits(report["limited"], report["request"]) if report.get("limited") else []
    lines += steps(report["steps"], report["request"]) if report.get("steps") else []
    if report.get("recovery"):
        if len(report.get("steps") or ()) > 1 and report["request"].get("tune"):
            lines.append("of the last step, where dense is the network that it cut:")
        lines += recovered(report["recovery"])
    return lines + (metrics(report["metrics"]) if report.get("metrics") else [])


def limits(found: dict[str, Any], request: dict[str, Any]) -> list[str]:
    """Each limit that was measured, as asked and as reached, and in how many rounds."""
    lines = []
    for what in found["limits"]:
        own = found["reached"]["measured"][what]
        share = own["share"]
        within = f" [{share['low']:.3f}, {share['high']:.3f}]" if what == "latency" else ""
        lines.append(
            f"{what}: asked {request['max_' + what]}, reached {share['value']:.3f}x{within}, {amount(what, own['value'])}"
        )
    count = len(found["rounds"])
    return [*lines, f"found in {count} measured round{'s' * (count > 1)}"]


def metrics(found: dict[str, Any]) -> list[str]:
    """What was won, by count, and what is lost on the examples given; from report.json's data."""
    share = {k: f"{v:.1%}" for k, v in found["sparsity"].items()}
    lines = [
        f"compression: x{found['compression_ratio']:.2f} by parameters; theoretical speed-up "
        f"x{found['theoretical_speedup']:.2f} by FLOPs; zeros {share['before']} -> {share['after']}"
    ]
    if found["examples"]:
        about = found["examples"]
        parts = []
        for key, drop in (found["accuracy"] or {"drop": {}})["drop"].items():
            before, after = (found["accuracy"][w][key] for w in ("before", "after"))
            said = f"{before:.1%} -> {after:.1%}, {100 * drop:.1f} points lost"
            parts.append(f"top-{key[3:]} {said}")
        parts.append(f"output error {digits(found['reconstruction_error'])}")
        lines.append(f"on {about['examples']} examples {about['which']}: {'; '.join(parts)}")
    return lines


def steps(done: list[dict[str, Any]], request: dict[str, Any]) -> list[str]:
    """What each of several cuts reached, and what training gave after it."""
    of = request.get("steps", 1)
    lines = []
    for own in done:
        line = f"step {own['step']} of {of}: {own['share']:.1%} of what was asked, {own['channels']} channels gone"
        if own["metric"] is not None:
            line += f"; {own['metric']} on validation: {own['before']:.4f} -> {own['score']:.4f}"
        lines.append(line)
    return lines


def recovered(found: dict[str, Any]) -> list[str]:
    """What fitting the slim network to the dense one did on the data given; from report.json's data."""
    error, top, fitted = found["output_error"], found["top1"], len(found["layers"])
    lines = [
        f"recovery: output error on {found['examples']} examples: {error['cut']:.3g} as cut, "
        f"{error['fitted']:.3g} fitted (of the outputs' variance); layers fitted after the proof: {fitted}"
    ]
    if top:
        said = ", ".join(f"{top[key]:.1%} {what}" for key, what in _NETWORKS.items())
        lines.append(f"top-1 on the data given: {said}")
    return lines


_NETWORKS = {"dense": "dense", "cut": "as cut", "fitted": "fitted"}


def reach(found: dict[str, Any], shown: int = 8) -> list[str]:
    """The share of parameters that may be cut; below 90 %, one line for each reason that holds the rest."""
    lines = [f"in groups that may be cut: {found['share']:.1%} of the parameters"]
    if found["share"] >= ENOUGH:
        return lines
    for held in found["held"][:shown]:
        states = held["states"]
        more = f" and {held['tensors'] - 2} more" if held["tensors"] > 2 else ""
        lines.append(f"  {held['share']:.1%} stays: {held['why']} ({', '.join(states[:2])}{more})")
    return lines


def sparsity(found: dict[str, Any], shown: int = 8) -> list[str]:
    """Zeros among the parameters, the sparsest layers, and what of it `--dead` removes."""
    dead = found["dead"]
    lines = [f"zeros: {found['zeros']:,} ({found['share']:.1%} of the parameters)"]
    layers = sorted(found["layers"].items(), key=lambda x: -x[1]["zeros"])
    for name, own in layers[:shown] if found["share"] >= _SPARSE else ():
        lines.append(f"  {own['share']:.1%} of {name or 'the model itself'}")
    if dead["channels"]:
        lines.append(
            f"dead: {dead['channels']} channels, {dead['share']:.1%} of the parameters; shrink --dead removes them"
        )
    elif found["share"] >= _SPARSE:
        lines.append(
            "dead: none; these zeros leave no channel empty, so none of them can be cut away"
        )
    return [*lines, *(f"  dead, and kept: {text}" for text in dead["kept"][:shown])]


_SPARSE = 0.01  # a smaller share of zeros is told in one line


def proven(check: dict[str, Any] | None) -> str:
    """The oracle's result in one line."""
    if check is None:
        return "not proven: the check was left out"
    error, allowed = f"{check['error']:.1e}", f"{check['tolerance']:.0e}"
    return f"proven: error {error} of the output's range in {check['dtype']} (allowed {allowed})"


def rows(measured: dict[str, Any]) -> list[Row]:
    """The table of a `BeforeAfter.as_dict()`; what was not measured is left out."""
    before, after = measured["before"], measured["after"]
    out = [
        _numbers("parameters", before["params"], after["params"]),
        _numbers("FLOPs (a multiply-add is one)", before["flops"], after["flops"]),
        _numbers("MACs", before["macs"], after["macs"]),
    ]
    sizes = {
        "bytes": "weights",
        "zipped": "weights, zipped",
        "onnx_bytes": file_of(before["runtime"]),
        "peak_memory": "peak memory",
    }
    for key, what in sizes.items():
        if before[key] is not None and after[key] is not None:
            out.append((what, size(before[key]), size(after[key]), change(before[key], after[key])))
    if before["latency"] and after["latency"]:
        ratio = (measured["latency_ratio"] or {}).get("after")
        said = f"{compared(ratio)}" if ratio else ""
        threads = f"{before['threads']} thread" + "s" * (before["threads"] > 1)
        what = f"latency, {before['runtime']}, {threads}"
        out.append((what, latency(before["latency"]), latency(after["latency"]), said))
    return out


def file_of(runtime: str) -> str:
    """What the file is called that a runtime, as 'onnxruntime 1.31.1', was given; '' where nothing ran."""
    return "ONNX file" if runtime.startswith(tuple(map(own_name, READ_ONNX))) else "file"


def _numbers(what: str, before: int, after: int) -> Row:
    return what, f"{before:,}", f"{after:,}", change(before, after)


def change(before: float, after: float) -> str:
    """'-73.1 %'."""
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def digits(value: float | None) -> str:
    """Three digits that mean something; '-' for none."""
    return "-" if value is None else f"{value:.3g}" if value < 1e6 else "lost"


def size(count: int) -> str:
    """'44.7 MB', in powers of ten."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count} B"


def seconds(value: float | None) -> str:
    """Milliseconds with as many digits as mean something; '-' for none."""
    return "-" if value is None else f"{value * 1e3:.4g} ms"


def amount(what: str, value: float) -> str:
    """So much of a quantity, in its unit."""
    unit = QUANTITIES[what].unit
    return seconds(value) if unit == "s" else size(int(value)) if unit else f"{value:,.0f}"


def latency(timing: dict[str, Any]) -> str:
    """The median with its 95 % interval."""
    low, high = timing["low_s"] * 1e3, timing["high_s"] * 1e3
    return f"{seconds(timing['median_s'])} [{low:.4g}, {high:.4g}]"


def layers(one: dict[str, Any]) -> str:
    """How many layers a runtime told times of, and their sum."""
    total = sum(layer["s"] for layer in one["profile"])
    return f"{one['name']}: {len(one['profile'])} layers, {seconds(total)} together; the slowest:"


def compared(ratio: dict[str, Any]) -> str:
    """'x0.45 [0.44, 0.46] faster'."""
    return f"x{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] {ratio['verdict']}"


def int8(file: Int8File) -> list[str]:
    """What became of a network in eight bits."""
    seen = file.seen
    whose = "held-out" if seen.held_out else "calibration"
    lines = [
        f"{file.path}: {size(file.bytes)}, {file.bytes / file.float_bytes:.0%} of the float32 file's {size(file.float_bytes)}",
        f"int8, {file.kind} ({file.target}), {file.layers} of {file.heavy} layers, calibrated on {file.calibrated_on} examples",
        f"outputs differ by at most {file.worst_error:.1%} of their range and by {seen.error:.2g} of their variance on {seen.examples} {whose} examples",
    ]
    rates = [f"{k} {seen.before[k]:.2%} -> {seen.after[k]:.2%}" for k in seen.after]
    return lines + ([f"float32 -> int8: {', '.join(rates)}"] if rates else [])


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a device: name and value, one line each; what is not told is said to be so."""
    hidden = ("runtimes", "missing", "then", "memory_free", "temperature", "pressure", "throttled")
    rows = [(_fact(k), _told(v)) for k, v in found.items() if k not in hidden]
    warm, free, pressure = (found.get(k) for k in ("temperature", "memory_free", "pressure"))
    throttled = found.get("throttled")
    rows += [
        ("temperature", "not told" if warm is None else f"{warm:.0f} C"),
        ("throttled", "no" if throttled == "" else _told(throttled)),
        (
            "waiting for a CPU",
            "not told" if pressure is None else f"{pressure:.0f} % of ten seconds",
        ),
        ("free memory", "not told" if free is None else size(free)),
    ]
    return rows + [(name, there or "not installed") for name, there in found["runtimes"].items()]


def _fact(name: str) -> str:
    return {"cpu": "CPU", "python": "Python"}.get(name, name.replace("_", " "))


def _told(value: Any) -> str:
    return "not told" if value is None else str(value)
