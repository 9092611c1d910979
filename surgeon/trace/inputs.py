"""What a forward is called with: positions and keywords, nested as the network takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgeon.errors import BadInput


@dataclass(frozen=True, eq=False)
class Inputs:
    """One call of a forward: `model(*args, **kwargs)`. Containers may be nested; a pytree node.

    >>> Inputs.of({"input_ids": ids, "attention_mask": mask}).run(model)  # doctest: +SKIP
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(example: Any) -> Inputs:
        """The call that an example stands for.

        A mapping holds keywords, a tuple or a list holds positions, anything else is the only
        argument. An argument that is itself a list or a dict stands in a tuple: `([image, image],)`.
        Raises BadInput for a mapping whose keys are no names.
        """
        if isinstance(example, Inputs):
            return example
        if isinstance(example, Mapping):
            if not all(isinstance(name, str) for name in example):
                raise BadInput(
                    "inputs given as a mapping are keyword arguments: its keys must be names",
                    "a dict that forward takes as one argument stands in a tuple: (batch,)",
                )
            return Inputs((), dict(example))
        return Inputs(tuple(example) if isinstance(example, (tuple, list)) else (example,))

    def run(self, model: nn.Module | Callable[..., Any]) -> Any:
        """What the model gives for these inputs."""
        return model(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Any]) -> Inputs:
        """The same call with every tensor changed."""
        return pytree.tree_map_only(Tensor, change, self)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, in order: positions, then keywords."""
        return [x for x in pytree.tree_leaves(self) if isinstance(x, Tensor)]

    @property
    def names(self) -> list[str]:
        """A name for every tensor: 'input_ids', 'images.0'; the first positional argument is '0'."""
        found = []
        for path, leaf in pytree.tree_flatten_with_path(self)[0]:
            if isinstance(leaf, Tensor):
                found.append(".".join(str(_key(step)) for step in path[1:]))
        return found

    @property
    def batch(self) -> int:
        """The extent of dim 0 that all tensors share (those without dimensions apart), 0 where they do not."""
        sizes = {x.shape[0] for x in self.tensors if x.dim()}
        return sizes.pop() if len(sizes) == 1 else 0

    def two_at_least(self) -> Inputs:
        """A batch of one doubled: an extent of one cannot be told from a dimension that is not there."""
        return self.times(2) if self.batch == 1 else self

    def first(self) -> Inputs:
        """The first example of tensors that share a batch; as they are where they do not."""
        return self.map(lambda x: x[:1] if x.dim() else x) if self.batch else self

    def times(self, count: int) -> Inputs:
        """Every tensor `count` times along dim 0."""
        return self.map(lambda x: torch.cat([x] * count) if x.dim() else x)


def _key(step: Any) -> Any:
    """What a step of a pytree path is called: a position, a key or an attribute."""
    for name in ("key", "idx", "name"):
        if hasattr(step, name):
            return getattr(step, name)
    return step


def _parts(inputs: Inputs) -> tuple[list[Any], None]:
    return [inputs.args, dict(inputs.kwargs)], None


def _whole(parts: Any, _context: Any) -> Inputs:
    args, kwargs = parts
    return Inputs(args, kwargs)


def _named_parts(inputs: Inputs) -> tuple[list[tuple[Any, Any]], None]:
    parts, context = _parts(inputs)
    names = (pytree.GetAttrKey("args"), pytree.GetAttrKey("kwargs"))
    return list(zip(names, parts, strict=True)), context


pytree.register_pytree_node(
    Inputs,
    _parts,
    _whole,
    serialized_type_name="surgeon.Inputs",
    flatten_with_keys_fn=_named_parts,
)
