"""A copied module is what `copy.deepcopy` gives: own tensors, own attributes, what is shared stays shared."""

import copy
import math
import threading
from collections.abc import Callable
from functools import partial, wraps
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgeon.trace.copied import copied
from surgeon.trace.rebound import unbound


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


class Head(nn.Module):
    """A head in a function that it keeps, made by `make(self, weight)`."""

    def __init__(self, make: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = make(self, self.embed.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def _twice(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def both(*args: Any) -> Any:
        return 2 * function(*args)

    return both


def _recursive(weight: Tensor) -> Callable[..., Tensor]:
    def head(x: Tensor, left: int = 2) -> Tensor:
        return head(x, left - 1) if left else x @ weight.t()

    return head


def _project(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.t()


FUNCTIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "module in a cell": lambda m, w: lambda x: x @ m.embed.weight.t(),
    "tensor in a cell": lambda m, w: lambda x: x @ w.t(),
    "default": lambda m, w: lambda x, w=w: x @ w.t(),
    "keyword default": lambda m, w: lambda x, *, w=w: x @ w.t(),
    "partial": lambda m, w: partial(_project, weight=w),
    "partial of a closure": lambda m, w: partial(lambda x: x @ w.t()),
    "method of a closure": lambda m, w: MethodType(lambda self, x: x @ w.t(), m),
    "decorated": lambda m, w: _twice(lambda x: x @ w.t()),
    "recursive": lambda m, w: _recursive(w),
    "method of a tensor": lambda m, w: partial(lambda x, turned: x @ turned(), turned=w.t),
    "in a list in a cell": lambda m, w: (lambda fs: lambda x: fs[0](x))([lambda x: x @ w.t()]),
}


@pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_hold_what_the_copy_has(make: Callable[[Any, Tensor], Any]):
    old, x = Head(make), torch.randn(2, 3)
    new = copied(old, {})
    want = old(x)
    assert torch.equal(new(x), want)
    with torch.no_grad():
        old.embed.weight.zero_()
    assert torch.equal(new(x), want)  # it does not read the original
    new(x).sum().backward()
    assert new.embed.weight.grad is not None and old.embed.weight.grad is None
    again = copied(new, {})
    with torch.no_grad():
        again.embed.weight.zero_()
    assert not again(x).any() and torch.equal(new(x), want)
    assert unbound(old) == ()


def test_functions_in_lists_and_dicts_of_a_module():
    old = Head(lambda m, w: None)
    old.heads = {"all": [lambda x: x @ old.embed.weight.t()]}
    old.same = old.heads
    new = copied(old, {})
    assert new.same is new.heads is not old.heads
    old.embed.weight.data.zero_()
    assert new.heads["all"][0](torch.ones(1, 3)).any()


def test_a_function_that_names_the_model_as_a_global():
    names: dict[str, Any] = {"__builtins__": __builtins__, "__name__": "a_script"}
    old = names["net"] = Head(lambda m, w: None)
    exec("net.head = lambda x: x @ net.embed.weight.t()", names)
    new = copied(old, {})
    assert new.head.__globals__["net"] is new and old.head.__globals__["net"] is old


def test_functions_that_hold_nothing_of_the_model_stay_shared():
    teacher, seen = nn.Linear(3, 3), [0]

    def counted(x: Tensor) -> Tensor:
        seen[0] += 1
        return teacher(x)

    old = Head(lambda m, w: counted)
    old.activation = torch.relu
    new = copied(old, {})
    assert new.head is old.head and new.activation is old.activation


def test_functions_go_on_sharing_a_variable():
    def make(module: Any, weight: Tensor) -> Any:
        calls = weight

        def head(x: Tensor) -> Tensor:
            nonlocal calls
            calls = calls + 1
            return x @ calls.t()

        module.calls = lambda: calls
        return head

    old, x = Head(make), torch.ones(1, 3)
    new = copied(old, {})
    new(x)
    assert torch.equal(new.calls(), old.embed.weight + 1)
    assert old.calls() is old.embed.weight


def test_what_no_copy_can_be_given_is_said():
    model = nn.Sequential(Head(lambda m, w: None))
    held = SimpleNamespace(weight=model[0].embed.weight)
    model[0].head = lambda x: x @ held.weight.t()
    (note,) = unbound(model)
    assert note.startswith(
        "0.head has a function that holds parts of the model in a SimpleNamespace"
    )
    model[0].held = held  # an attribute is copied
    assert unbound(model) == ()
    new = copied(model, {})
    assert new[0].held.weight is new[0].embed.weight
    assert torch.equal(new(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_what_python_cannot_copy_is_shared():
    model = nn.Linear(3, 4)
    names, lock = {"a": 1}.keys(), threading.Lock()
    model.names, model.lock, model.library = names, lock, math
    new = copied(model, {})
    assert (new.names, new.lock, new.library) == (names, lock, math)
