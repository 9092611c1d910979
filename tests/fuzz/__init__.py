"""Random networks from every kind of layer that surgeon should take, each judged by two checks.

    recipe.py    a drawn network as frozen data (`Recipe`), and `build`: the data as an nn.Module
    draw.py      hypothesis strategies that draw recipes and requests, legal in shape, whatever can be cut
    judge.py     shrink one network and say what came of it: proven, refused by name, or wrong
    prune.py     the least recipe that still goes wrong in the same way

All other files are tables of blocks. A new op is one function there: `@block` says what it takes, the
function asks for its options with `pick(options)` and gives the module, or None where no options fit.
"""

from fuzz.draw import asks, recipes
from fuzz.judge import Ask, Verdict, judge
from fuzz.prune import pruned
from fuzz.recipe import BLOCKS, Recipe, Step, build

__all__ = [
    "BLOCKS", "Ask", "Recipe", "Step", "Verdict", "asks", "build", "judge", "pruned", "recipes",
]  # fmt: skip
