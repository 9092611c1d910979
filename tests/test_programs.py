"""Every net as a program: it computes what the model does, and comes back from its document."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torchvision
from nets import NETS
from programs import difference, read_back, same, seeded
from torch import Tensor, nn

from surgeon.files.codec import encode
from surgeon.trace.program import Program, to_program

torch.set_num_threads(1)

# how often and on what these run their layers depends on the data: torch.export refuses them
PROGRAMS = {n: c for n, c in NETS.items() if n not in {"routed_examples", "as_often_as_needed"}}


@dataclass(frozen=True)
class Captured:
    """A net, its inputs, and its program: captured once for all that is asked of it."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    program: Program


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=PROGRAMS.keys())
def net(request: pytest.FixtureRequest) -> Captured:
    model, inputs = request.param.build(), request.param.inputs()
    return Captured(model, inputs, to_program(model, inputs))


def of_batch(inputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    return tuple(x.repeat(size, *[1] * (x.dim() - 1))[:size] for x in inputs)


def test_outputs_and_names_are_the_models(net: Captured):
    model, program, inputs = net.model, net.program, net.inputs
    assert list(program.state_dict()) == list(model.state_dict())
    compared = 0
    for size in (1, 2, 5) if program.dynamic_batch else (len(inputs[0]),):
        given = of_batch(inputs, size)
        try:
            want = model(*given)
        except IndexError:  # it compares one example with another
            continue
        assert difference(program(*given), want) < 1e-6
        compared += 1
    assert compared


def test_it_comes_back(net: Captured):
    program, inputs = copy.deepcopy(net.program), net.inputs
    again = read_back(program)
    assert list(again.state_dict()) == list(program.state_dict())
    assert (again.notes, again.dynamic_batch) == (program.notes, program.dynamic_batch)
    assert again.sizes == program.sizes
    assert again.ties() == program.ties()
    assert encode(again) == encode(program)
    assert same(again(*inputs), program(*inputs))
    assert same(seeded(again.train(), *inputs), seeded(program.train(), *inputs))
    assert same(list(again.state_dict().values()), list(program.state_dict().values()))
    assert encode(again) == encode(again.eval())  # a document does not depend on the mode


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "squeezenet1_0", "shufflenet_v2_x0_5", "swin_t"]
)
def test_torchvision(name: str):
    model = getattr(torchvision.models, name)(weights=None).eval()
    program = to_program(model, (torch.randn(1, 3, 64, 64),))
    again = read_back(program)
    assert program.dynamic_batch
    assert program.notes == ("captured with these sizes (* is any): input 0 [*, 3, 64, 64]",)
    for size in (1, 3):
        x = torch.randn(size, 3, 64, 64)
        assert difference(program(x), model(x)) < 1e-6
        assert same(again(x), program(x))
