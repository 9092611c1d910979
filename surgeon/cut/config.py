"""A model's own config (Hugging Face): set to the sizes of the cut, where a fresh model of it is the cut one.

Which field is which size is not known. Fields that hold an old size are tried at the new one; a config
counts only if the class, built from it, has the cut model's state, name by name and shape by shape, its
computed buffers, and runs the planned forward, op by op. Then `save_pretrained` and `from_pretrained` work,
and the attributes that the class works out from its config are right too.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.couple import Coupling
from surgeon.cut.attempt import Attempt
from surgeon.cut.fits import Misfit
from surgeon.cut.sizes import Sizes
from surgeon.quiet import quiet
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import named_loose
from surgeon.trace.weightless import Weightless

_BUILDS = 24  # fresh models made in search of a config, at most
Path = tuple[str | int, ...]
Shapes = Mapping[str, tuple[int, ...]]
Chosen = Mapping[Path, int]
Apart = Mapping[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]


def has_config(model: nn.Module) -> bool:
    """Whether the model is saved and built by a config of its own."""
    config = model.__dict__.get("config")
    return hasattr(config, "to_dict") and hasattr(model, "save_pretrained")


def configure(slim: nn.Module, inputs: Inputs, sizes: Sizes) -> str | None:
    """Give `slim` a config, and attributes worked out from it, that say what it is; or why there is none.

    Its forward is then the planned one but for scales that follow a width, which belong into weights.
    """
    found = _found(slim, inputs, sizes)
    if isinstance(found, str):
        return found
    chosen, fresh = found
    _become(slim, _without_idle(slim, chosen, inputs, sizes) or fresh)
    return None


def _found(slim: nn.Module, inputs: Inputs, sizes: Sizes) -> tuple[Chosen, nn.Module] | str:
    """The first numbers that do, with a fresh model of them, or why there are none."""
    why = None
    for chosen in _choices(slim, sizes):
        found = _tried(slim, chosen, inputs, sizes)
        if isinstance(found, nn.Module):
            return chosen, found
        why = why or found.why
        if found.at is None:
            break
    return why or f"no config builds a {type(slim).__name__} of these sizes"


def _tried(slim: nn.Module, chosen: Chosen, inputs: Inputs, sizes: Sizes) -> nn.Module | Misfit:
    """A fresh model of these numbers, with the slim state, if it is the planned one; else why not. It has no node where it computes
    something else, which other numbers would not mend."""
    name = type(slim).__name__
    fresh = _fresh(type(slim), _with(slim.__dict__["config"], chosen))
    if fresh is None or _apart(fresh, _shapes(slim)) != {}:
        return Misfit(f"no config builds a {name} of these sizes")
    computed = _filled(fresh, slim) or _otherwise(fresh, slim, sizes.coupling)
    if computed:
        return Misfit(f"a fresh {name} computes another {computed}")
    differs = Attempt(fresh, inputs, sizes).misfit(strict=True, brief=True)
    if differs is None:
        return fresh
    return replace(differs, why=f"in a fresh {name} {differs.why}", at=differs.at or 0)


def _without_idle(
    slim: nn.Module, chosen: Chosen, inputs: Inputs, sizes: Sizes
) -> nn.Module | None:
    """The same with as many numbers as they were as it takes none of them for: `eos_token_id` happens to be a size, too. None where
    it takes all."""
    kind, config, want = type(slim), slim.__dict__["config"], _shapes(slim)
    known = dict(_fields(config, ()))
    changed = {path: value for path, value in chosen.items() if value != known[path]}
    unbuilt = [
        path
        for path in changed
        if _apart(_fresh(kind, _with(config, _less(changed, [path]))), want) == {}
    ]
    best = None
    for some in (unbuilt, *([path] for path in unbuilt)) if unbuilt else ():
        fewer = _less(changed, some)
        fewer |= {p: v for p in some if (v := _worked_out(config, fewer, p)) is not None}
        found = _tried(slim, fewer, inputs, sizes) if fewer != changed else None
        if isinstance(found, nn.Module):
            best, changed = found, fewer
            if some is unbuilt:
                break
    return best


def _worked_out(config: Any, chosen: Chosen, path: Path) -> int | None:
    """The number that the config's own class makes of the others where it is told none (a last width, of a first one and how
    many there are); None where that is none of theirs."""
    own = [_made_without(c, path) for c in (config, _with(config, chosen))]
    return own[1] if own[0] == dict(_fields(config, ())).get(path) != own[1] else None


def _made_without(config: Any, path: Path) -> int | None:
    *within, name = path
    said = config.to_dict()
    if within or said.pop(name, None) is None:
        return None
    try:
        with quiet():
            return dict(_fields(type(config).from_dict(said), ())).get(path)
    except Exception:  # noqa: BLE001  whatever a class says of numbers that do not go together
        return None


def _less(chosen: Chosen, paths: Sequence[Path]) -> dict[Path, int]:
    return {path: value for path, value in chosen.items() if path not in paths}


# a config that builds the slim shapes


def _choices(model: nn.Module, sizes: Sizes) -> Iterator[Chosen]:
    """New numbers of a config whose fresh model has the slim state: the first found, then those that
    leave one more field as it was (a number that only happened to be equal shows in the forward)."""
    config, kind, want = model.__dict__["config"], type(model), _shapes(model)
    news = _new_sizes(sizes)
    options = {p: [*news[v], v] for p, v in _fields(config, ()) if v in news}
    chosen = {path: values[0] for path, values in options.items()}
    best, builds = _apart(_fresh(kind, _with(config, chosen)), want), 1
    for path, value in ((p, v) for p, values in options.items() for v in values[1:]):
        if best == {} or builds >= _BUILDS:
            break
        if best is not None and not _may_mend(best, value - chosen[path]):
            continue
        trial = {**chosen, path: value}
        found, builds = _apart(_fresh(kind, _with(config, trial)), want), builds + 1
        if found is not None and (best is None or len(found) < len(best)):
            best, chosen = found, trial
    if best != {}:
        return
    yield chosen
    for path in chosen:
        fewer = _less(chosen, [path])
        if _apart(_fresh(kind, _with(config, fewer)), want) == {}:
            yield fewer


def _may_mend(apart: Apart, step: int) -> bool:
    """Whether a field that grows by `step` can bring a shape nearer: a dimension grows by a whole multiple of what a field does, be
    it a product with others or a sum."""
    return any(
        have is None
        or want is None
        or len(have) != len(want)
        or any(
            h != w and (w - h) % step == 0 and (w - h) // step > 0
            for h, w in zip(have, want, strict=True)
        )
        for have, want in apart.values()
    )


def _new_sizes(sizes: Sizes) -> dict[int, list[int]]:
    """Old size -> new ones, of groups and of dimensions in the forward, the most frequent first."""
    counts: Counter[tuple[int, int]] = Counter()
    for group in sizes.coupling.groups:
        counts[group.size, group.size - int(sizes.removed[group.atoms].sum())] += 1
    for value in sizes.coupling.graph.values:
        counts.update(zip(value.shape, sizes.shape(value), strict=True))
    found: dict[int, list[int]] = {}
    for (old, now), _ in counts.most_common():
        if old != now:
            found.setdefault(old, []).append(now)
    return found


def _fields(config: Any, path: Path) -> Iterator[tuple[Path, int]]:
    """Every integer of a config, of lists in it and of configs in it."""
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if type(value) is int:
            yield (*path, name), value
        elif isinstance(value, (list, tuple)):
            yield from (((*path, name, i), v) for i, v in enumerate(value) if type(v) is int)
        elif hasattr(value, "to_dict"):
            yield from _fields(value, (*path, name))


def _with(config: Any, chosen: Chosen) -> Any:
    """A copy of a config with some of its numbers changed."""
    new = copy.deepcopy(config)
    for path, value in chosen.items():
        owner, last = new, path[-1]
        for step in path[: -1 if isinstance(last, str) else -2]:
            owner = getattr(owner, str(step))
        if isinstance(last, int):
            numbers = list(getattr(owner, str(path[-2])))
            numbers[last] = value
            last, value = path[-2], type(getattr(owner, str(path[-2])))(numbers)
        setattr(owner, str(last), value)
    return new


def _apart(fresh: nn.Module | None, want: Shapes) -> Apart | None:
    """The shapes, there and wanted, by the names that a fresh model has otherwise; None where none was built."""
    if fresh is None:
        return None
    have = _shapes(fresh)
    names = (name for name in {**have, **want} if have.get(name) != want.get(name))
    return {name: (have.get(name), want.get(name)) for name in names}


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if isinstance(t, Tensor)}


def _fresh(kind: type, config: Any) -> nn.Module | None:
    """A model of this config without weights, in eval mode, or None where the class refuses."""
    undrawn = torch.random.fork_rng(devices=[])  # no random number of the caller's is used up
    try:
        with quiet(), undrawn, torch.no_grad(), Weightless():
            return kind(copy.deepcopy(config)).eval()
    except Exception:  # noqa: BLE001  whatever a class says of sizes that do not go together
        return None


# the fresh model and the slim one


def _filled(fresh: nn.Module, slim: nn.Module) -> str | None:
    """Give `fresh` the slim state; the name of the first buffer that it computes and `slim` has otherwise."""
    stored = slim.state_dict().keys()
    for path, module in fresh.named_modules(remove_duplicate=False):
        own = slim.get_submodule(path)
        module._parameters.update(own._parameters)
        for name, tensor in own._buffers.items():
            full = f"{path}.{name}" if path else name
            if full not in stored and not _equal(module._buffers.get(name), tensor):
                return full
        module._buffers.update(own._buffers)
    return None


def _otherwise(fresh: nn.Module, slim: nn.Module, coupling: Coupling) -> str | None:
    """The first plain attribute that the forward reads and that `fresh` does not hold as `slim` does."""
    theirs, own = named_loose(fresh), named_loose(slim)
    read = (n for n, v in coupling.graph.state.items() if n in own and v in coupling.dims)
    return next((n for n in read if not _equal(theirs.get(n), own[n])), None)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.is_meta or b.is_meta:
        return a is b or (a is not None and b is not None and a.is_meta and a.shape == b.shape)
    return torch.equal(a.to(b.dtype), b.to(a.device))


def _become(slim: nn.Module, fresh: nn.Module) -> None:
    """Give every module of `slim` the config and the plain attributes of its fresh twin."""
    for path, module in slim.named_modules():
        twin = fresh.get_submodule(path)
        for name, value in twin.__dict__.items():
            plain = _is_plain(value) and name != "training"
            if name in module.__dict__ and (plain or name == "config"):
                module.__dict__[name] = value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bool(value) and all(type(v) in (int, float) for v in value)
    return type(value) in (int, float)
