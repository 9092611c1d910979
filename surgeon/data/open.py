"""A reference to data becomes examples: a folder or zip of pictures, arrays, or the user's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.data.arrays import SUFFIXES, open_arrays
from surgeon.data.loader import open_given, open_loader
from surgeon.data.samples import DataOptions, Examples, Samples
from surgeon.data.tree import open_tree
from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

_FORMS = (
    "give a folder or zip of pictures (zip:train for a folder inside), .npy, .npz or .pt arrays, "
    "or file.py:loader"
)


def open_data(ref: Any, like: Any, options: DataOptions | None = None) -> Samples:
    """Batches of real inputs for a network whose example input is `like`.

    ref: a path, FILE.zip:FOLDER, file.py:function, or in Python a DataLoader, a dataset or an
    iterable of batches. Raises BadInput for what is missing, empty, broken (the file is named) or
    does not fit `like`.

    >>> list(open_data("images/", torch.zeros(1, 3, 224, 224)))  # doctest: +SKIP
    """
    options = options or DataOptions()
    return Samples(open_examples(ref, like, options), options)


def open_examples(ref: Any, like: Any, options: DataOptions) -> Examples:
    """All examples that `ref` names, to be read by number; `options.samples` bounds only what must be held."""
    like = Inputs.of(like)
    if not isinstance(ref, str | Path):
        return open_given(ref, like, options, "the data given")
    ref = str(ref)
    path, _, function = ref.rpartition(":")
    if path.endswith(".py") and function:
        return open_loader(Path(path), function, like, options)
    tree = open_tree(ref)
    if tree is not None:
        from surgeon.data.pictures import Pictures  # torchvision takes long to import

        return Pictures(tree, like, options)
    if not Path(ref).exists():
        raise BadInput(f"{ref}: no such data", _FORMS)
    if Path(ref).suffix not in SUFFIXES:
        raise BadInput(f"{ref} is no form of data that is known", _FORMS)
    return open_arrays(Path(ref), like, options)
