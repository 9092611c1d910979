"""The least recipe that still goes wrong in the same way: steps are left out while the verdict stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fuzz.recipe import Illegal, Recipe, Step, build


def pruned(recipe: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """Leave out one step after the other as long as `fails` holds; what read it reads its input."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _without_one(recipe):
            if _stands(candidate) and fails(candidate):
                recipe, smaller = candidate, True
                break
    return recipe


def _stands(recipe: Recipe) -> bool:
    try:
        net, inputs = build(recipe)
        net(*inputs)
    except (Illegal, RuntimeError, ValueError, IndexError):
        return False
    return True


def _without_one(recipe: Recipe) -> Iterator[Recipe]:
    counts = _counts(recipe)
    for k in reversed(range(len(recipe.steps))):
        start = len(recipe.inputs) + sum(counts[:k])
        moved: dict[int, int] = {i: i for i in range(start)}
        moved |= {start + i: recipe.steps[k].on[0] for i in range(counts[k])}
        last = len(recipe.inputs) + sum(counts)
        moved |= {i: i - counts[k] for i in range(start + counts[k], last)}
        rest = [_again(s, k) for i, s in enumerate(recipe.steps) if i != k]
        if None not in rest:
            steps = tuple(replace(s, on=tuple(moved[i] for i in s.on)) for s in rest if s)
            yield replace(recipe, steps=steps)
    for i in range(len(recipe.inputs)):
        if len(recipe.inputs) > 1 and all(i not in s.on for s in recipe.steps):
            steps = tuple(replace(s, on=tuple(j - (j > i) for j in s.on)) for s in recipe.steps)
            yield replace(recipe, inputs=recipe.inputs[:i] + recipe.inputs[i + 1 :], steps=steps)


def _again(step: Step, gone: int) -> Step | None:
    """A step that calls another one's module names it by its number."""
    if step.kind != "again" or not step.said:
        return step
    if step.said[0] == gone:
        return None
    return replace(step, said=(step.said[0] - (step.said[0] > gone),))


def _counts(recipe: Recipe) -> list[int]:
    """How many values each step gives."""
    net, inputs = build(recipe)
    counts: list[int] = []
    values = list(inputs)
    for layer, on in net.plan:
        out = net.layers[layer](*(values[i] for i in on))
        found = list(out) if isinstance(out, (tuple, list)) else [out]
        counts.append(len(found))
        values += found
    return counts
