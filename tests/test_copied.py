"""A copied module is what `copy.deepcopy` gives: own tensors, own attributes, what is shared stays shared."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgeon.trace.copied import copied


class Odd(nn.Module):
    """Attributes of every kind, some of them shared."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.again = self.linear
        self.blocks = nn.ModuleList(
            [nn.LSTM(3, 4), nn.Conv2d(3, 4, 1), nn.MultiheadAttention(4, 2)]
        )
        self.plain = [self.linear, {"deep": nn.Parameter(torch.ones(2))}]
        self.sizes, self.names, self.also = (1, (2, 3)), {"a"}, {"a"}
        self.also = self.names
        self.options = {"x": [1, 2]}
        self.empty: dict[str, Any] = {}
        self.linear.register_forward_hook(_hook)
        object.__setattr__(self, "owner", self)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(x)


def _hook(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
    return out + 1


class Refuses(nn.Linear):
    """Says itself how it is copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Refuses":
        new = Refuses(self.in_features, self.out_features)
        new.told = True
        return new


def test_nothing_but_tensors_in_the_memo_is_shared_with_the_original():
    old = Odd()
    given = old.linear.weight
    new = copied(old, {id(given): given})
    assert isinstance(new, Odd)
    assert new.linear.weight is given
    assert new.linear.bias is not old.linear.bias
    assert torch.equal(new.linear.bias, old.linear.bias)
    for name in ("linear", "plain", "options", "names", "empty"):
        assert getattr(new, name) is not getattr(old, name), name
    new.options["x"].append(3)
    new.empty["a"] = 1
    new.linear._forward_hooks.clear()
    assert (old.options, old.empty, len(old.linear._forward_hooks)) == ({"x": [1, 2]}, {}, 1)


def test_what_was_one_object_is_one_object():
    new = copied(Odd(), {})
    assert isinstance(new, Odd)
    assert new.again is new.linear is new.plain[0]
    assert new.owner is new
    assert new.also is new.names
    assert list(new.state_dict()) == list(Odd().state_dict())


def test_it_computes_the_same():
    old, x = Odd().eval(), torch.randn(2, 3)
    new = copied(old, {})
    assert torch.equal(new(x), old(x))
    assert torch.equal(new.blocks[0](x[None])[0], old.blocks[0](x[None])[0])


@pytest.mark.parametrize(
    "module", [Refuses(2, 3), nn.Sequential(Refuses(2, 3))], ids=["own", "inside"]
)
def test_a_class_that_says_how_it_is_copied_is_asked(module: nn.Module):
    assert [getattr(m, "told", False) for m in copied(module, {}).modules()] == [
        getattr(m, "told", False) for m in copy.deepcopy(module).modules()
    ]
