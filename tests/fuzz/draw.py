"""hypothesis strategies: networks that are legal in shape, whatever of them can be cut, and what is asked."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from fuzz.judge import Ask
from fuzz.recipe import BLOCKS, Form, Growing, Illegal, Pick, Recipe, build, fits

for (
    _family
) in "contract joins movement nests norms pointwise sequence turns values weights".split():
    import_module(f"fuzz.{_family}")  # registers its blocks

INPUTS = (
    Form("map", (3, 4, 6)), Form("map", (3, 6, 6)), Form("map", (4, 8)), Form("map", (2, 4, 2, 4)),
    Form("tokens", (6, 5)), Form("tokens", (8, 12)), Form("vector", (10,)), Form("words", (6,)),
)  # fmt: skip
_MOODS = {
    "moving": ("contract", "movement", "joins", "weights"),
    "sequence": ("sequence", "turns", "joins", "norms", "nests", "values", "weights"),
}
_STATES = ("eval",) * 8 + ("train", "frozen", "float64", "bfloat16")
STEMS = {"map": "conv", "tokens": "linear", "vector": "dense", "words": "embedding"}


@st.composite
def recipes(draw: st.DrawFn, most: int = 9) -> Recipe:
    """Three to `most` layers between a stem for each input and a head for most outputs."""
    pick = _picker(draw)
    inputs = tuple(pick(INPUTS) for _ in range(pick((1, 1, 1, 2))))
    gives, batch, state = pick(("tuple", "list", "dict")), pick((2, 2, 3, 1)), pick(_STATES)
    growing = Growing(Recipe(inputs, (), gives, batch, state))
    names = _names(pick(("all", "moving", "plain", "sequence")))
    for i, form in enumerate(inputs):
        assume(growing.add(STEMS[form.kind], (i,), pick))
    wanted = pick(range(3, most + 1))
    for _ in range(3 * wanted):  # some do not fit
        if wanted and _step(growing, pick(names), pick):
            wanted -= 1
    _heads(growing, pick)
    return _runs(growing.recipe)


def _picker(draw: st.DrawFn) -> Pick:
    def pick(options: Sequence[Any]) -> Any:
        return draw(st.sampled_from(options))

    return pick


def _names(mood: str) -> tuple[str, ...]:
    """The blocks to draw from: all; those that a check without masks can follow; or a few families."""
    families = _MOODS.get(mood)
    named = tuple(
        b.name
        for b in BLOCKS.values()
        if b.name != "head"
        and (b.plain or mood != "plain")
        and (families is None or b.make.__module__.removeprefix("fuzz.") in families)
    )
    return (*named, "again", "again")


def _step(growing: Growing, name: str, pick: Pick) -> bool:
    made = range(len(growing.recipe.inputs), len(growing.forms))
    recent = tuple(made[-4:]) + tuple(made)
    if name == "again":
        return growing.add(name, (pick(recent),), pick)
    takes = BLOCKS[name].takes
    fit = [i for i in recent if fits(takes[0], growing.forms[i])]
    if not fit:
        return False
    on = [pick(fit)]
    for kind in takes[1:]:
        fit = [i for i in recent if fits(kind, growing.forms[i])]
        near = [i for i in fit if growing.forms[i].space == growing.forms[on[0]].space]
        same = [i for i in near if growing.forms[i] == growing.forms[on[0]]]
        if not fit:
            return False
        on.append(pick(same * 2 + near + fit))
    return growing.add(name, tuple(on), pick)


def _heads(growing: Growing, pick: Pick) -> None:
    """A layer over most values that nothing has read yet; the others are outputs as they are."""
    unread = [i for i in range(len(growing.forms)) if i not in growing.used]
    for i in unread:
        if i >= len(growing.recipe.inputs) and pick((True,) * 9 + (False,)):
            growing.add("head", (i,), pick)


def _runs(recipe: Recipe) -> Recipe:
    """The recipe, if its network gives finite numbers that are not too large to compare."""
    try:
        net, inputs = build(recipe)
        outputs = net.eval()(*inputs)
    except (Illegal, RuntimeError, ValueError):
        assume(False)
        raise
    found = outputs.values() if isinstance(outputs, dict) else outputs
    found = found if not hasattr(found, "isfinite") else [found]
    assume(all(bool(t.isfinite().all()) and float(t.abs().max()) < 1e4 for t in found))
    return recipe


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """What is asked of one network."""
    pick = _picker(draw)
    ratio = pick((0.5, 0.5, 0.3, 0.7, 0.9, 0.15))
    scope, criterion = (
        pick(("local", "local", "global", "isomorphic")),
        pick(("l2", "l1", "random")),
    )
    by, round_to = pick(("group", "filter", "shared-kernel")), pick((None, None, None, 2, 4, 8))
    what = pick(("ratio",) * 6 + ("remove", "only", "ignore", "max_params", "max_flops"))
    return Ask(what, ratio, scope, criterion, by, round_to, pick(range(6)), pick(range(6)))
