"""A Program computes what the model does, in eval and in training, and can be changed and moved."""

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from programs import difference, seeded
from torch import Tensor, nn

import surgeon
from surgeon.errors import BadInput
from surgeon.trace.program import Program, from_exported, to_program

torch.set_num_threads(1)


class Small(nn.Module):
    """A conv with norm and dropout, its channels written out in a view."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=momentum)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.fc(self.drop(x.view(-1, 8 * 4)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.arange(6.0), persistent=False)
        self.scale = torch.full((6,), 2.0)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x) * self.scale + self.shift)


IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_trains_as_the_model_does(momentum: float | None):
    model = Small(momentum)
    program = to_program(model, (IMAGE,)).train()
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (model, program)]
    for _ in range(3):
        for module, optimizer in zip((model, program), optimizers, strict=True):
            optimizer.zero_grad()
            seeded(module, IMAGE).square().mean().backward()
            optimizer.step()
    assert program.state_dict()["norm.num_batches_tracked"] == 3
    for name, tensor in model.state_dict().items():
        assert torch.allclose(program.state_dict()[name], tensor, atol=1e-6), name
    assert difference(program.eval()(IMAGE), model.eval()(IMAGE)) < 1e-5


def test_mode_switches_back_and_forth():
    program = to_program(Small(), (IMAGE,))
    still = program(IMAGE)
    assert torch.equal(program(IMAGE), still)
    program.train()
    assert not torch.equal(program(IMAGE), program(IMAGE))
    program.eval()
    assert torch.equal(program(IMAGE), program(IMAGE))
    assert not torch.equal(program(IMAGE), still)  # the running statistics moved


def test_what_was_on_in_eval_mode_stays_as_it_is():
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.norm(x), 0.5, training=True)

    model = Always()
    program = to_program(model, (IMAGE,))
    for mode in (True, False):
        assert torch.equal(seeded(program.train(mode), IMAGE), seeded(model.train(mode), IMAGE))


def test_lstm_trains():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, 2, batch_first=True, dropout=0.5, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    model, x = Recurrent(), torch.randn(5, 7, 4)
    program = to_program(model, (x,)).train()
    assert difference(seeded(program, x), seeded(model, x)) < 1e-6
    program(x).sum().backward()
    assert all(p.grad is not None for p in program.parameters())
    assert program.double()(x.double()).dtype is torch.float64  # its initial states follow


def test_no_grad_in_forward_stays_without_gradient():
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.a(x)
            with torch.autocast("cpu", enabled=False):
                return self.b(y) * self.a.weight.sum()

    model, x = Partly(), torch.randn(2, 3)
    program = to_program(model, (x,))
    for module in (model, program):
        module(x).sum().backward()
    gradients = {name: p.grad for name, p in program.named_parameters()}
    for name, parameter in model.named_parameters():
        assert (gradients[name] is None) == (parameter.grad is None), name
        assert parameter.grad is None or torch.allclose(gradients[name], parameter.grad), name


def test_data_is_the_same_memory_without_gradient():
    """torch.export by itself takes what `t.data` gives for a constant, and refuses it."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y.data[:, 0] = 3  # seen in y
            return self.b(y) + self.b(y.data) + self.b.weight.data.sum()

    model, x = Reads(), torch.randn(2, 3)
    program = to_program(model, (x,))
    assert program.dynamic_batch
    for module in (model, program):
        module(x[:1]).sum().backward()
    assert torch.equal(program(x[:1]), model(x[:1]))
    gradients = {name: p.grad for name, p in program.named_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad), name


def test_a_shortcut_that_pads_data_is_cut_as_one_that_does_not():
    class Padded(nn.Module):
        """A residual block whose shortcut has no weights: zeros stand for the channels that it lacks (MedicalNet)."""

        def __init__(self, data: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.data = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, padding=1), data
            self.head = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).relu()
            zeros = torch.zeros(x.shape[0], 32 - x.shape[1], *x.shape[2:])
            short = torch.cat([x.data if self.data else x, zeros], 1)
            return self.head((short + self.b(x)).relu().mean((2, 3)))

    reads, plain = (
        surgeon.shrink(Padded(data).eval(), IMAGE, ratio=0.5, measure=False)
        for data in (True, False)
    )
    assert reads.way == plain.way == "program"
    assert reads.check is not None and reads.check.error < 1e-5
    shapes = [{n: t.shape for n, t in r.model.state_dict().items()} for r in (reads, plain)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["b.weight"][0] < 32


def test_the_model_is_left_alone():
    model = Small()
    model.conv.eval()
    before = copy.deepcopy(model.state_dict())
    program = to_program(model, (IMAGE,))
    assert model.training and model.norm.training and not model.conv.training
    assert not program.training
    nn.init.zeros_(program.get_parameter("fc.weight"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_frozen_parameters_stay_frozen():
    model = Small().requires_grad_(False)
    model.fc.requires_grad_()
    program = to_program(model, (IMAGE,))
    assert {n for n, p in program.named_parameters() if p.requires_grad} == {
        "fc.weight",
        "fc.bias",
    }


def test_a_model_made_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        program = to_program(Small(), (torch.randn(2, 3, 8, 8),))
    program.train()(IMAGE).sum().backward()
    assert program.get_parameter("conv.weight").grad is not None


def test_tied_names_hold_one_tensor():
    program = to_program(Tied(), (TOKENS,))
    assert program.ties() == {"head.weight": "embed.weight"}
    assert len(list(program.parameters())) == 1
    assert set(program.tensors()) - set(program.state_dict()) == {"shift", "scale"}
    for moved in (program.double(), copy.deepcopy(program).to("meta"), copy.deepcopy(program)):
        assert moved.ties() == {"head.weight": "embed.weight"}


def test_replace_state_reaches_tied_names_and_constants():
    program = to_program(Tied(), (TOKENS,))
    new = torch.randn(10, 4)
    program.replace_state({"head.weight": new, "shift": torch.zeros(4), "scale": torch.ones(4)})
    assert isinstance(program.get_parameter("embed.weight"), nn.Parameter)
    assert program.ties() == {"head.weight": "embed.weight"}
    assert torch.allclose(program(TOKENS), new[TOKENS] @ new.T)


def test_replace_state_changes_nothing_when_it_refuses():
    program = to_program(Tied(), (TOKENS,))
    before = program.tensors()
    with pytest.raises(BadInput, match=r"no state named body\.weight"):
        program.replace_state({"shift": torch.zeros(4), "body.weight": torch.zeros(1)})
    with pytest.raises(BadInput, match=r"head\.weight is tied to embed\.weight"):
        program.replace_state({"embed.weight": torch.ones(2), "head.weight": torch.ones(2)})
    assert all(program.tensors()[name] is tensor for name, tensor in before.items())


def test_surgery_on_graph_and_state():
    """Channels 0 and 5 of the conv alone, its literal view rewritten: the masked model's outputs."""
    model = Small().eval()
    program, keep = to_program(model, (IMAGE,)), torch.tensor([0, 5])
    state = program.tensors()
    vectors = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    smaller = {n: state[n][keep] for n in (*vectors, "norm.running_mean", "norm.running_var")}
    columns = torch.arange(8 * 4).view(8, 4)[keep].flatten()
    program.replace_state({**smaller, "fc.weight": state["fc.weight"][:, columns]})
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.args = (node.args[0], [-1, 2 * 4])
    program.recompile()
    with torch.no_grad():
        mask = torch.zeros(8 * 4).index_fill(0, columns, 1)
        model.fc.weight *= mask
    assert difference(program(IMAGE), model(IMAGE)) < 1e-6
    program.train()(IMAGE).sum().backward()
    assert program.get_parameter("conv.weight").grad.shape == (2, 3, 3, 3)


def test_recompile_refuses_unknown_state():
    program = to_program(Small(), (IMAGE,))
    node = next(node for node in program.graph.nodes if node.op == "get_attr")
    node.target = "conv.wight"
    with pytest.raises(BadInput, match=r"reads conv\.wight"):
        program.recompile()


def test_copies_are_independent():
    program = to_program(Small(), (IMAGE,))
    before = program(IMAGE)
    other = copy.deepcopy(program)
    nn.init.zeros_(other.get_parameter("fc.weight"))
    other.train()(IMAGE)
    assert torch.equal(program(IMAGE), before)
    assert not program.training


def test_dtypes_in_the_graph_follow():
    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.to(torch.float32) + torch.zeros(3) + torch.arange(3))

    program, x = to_program(Literal(), (torch.randn(2, 3),)), torch.randn(4, 3)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        assert program.to(dtype)(x.to(dtype)).dtype is dtype
    assert program.to("meta")(x.to("meta")).device.type == "meta"


def test_keywords_constants_and_structure_of_inputs():
    class Many(nn.Module):
        def forward(self, pair: list[Tensor], times: int, *, bias: Tensor) -> Tensor:
            return pair[0] * times + pair[1] + bias

    a, b, c = torch.randn(3, 2, 4)
    program = to_program(Many(), ([a, b], 3), {"bias": c})
    assert torch.equal(program([a, b], 3, bias=c), a * 3 + b + c)
    assert program.dynamic_batch
    with pytest.raises(TypeError, match=r"\[0\]\[1\]: the program was made for 3"):
        program([a, b], 4, bias=c)
    with pytest.raises(TypeError, match=r"made for \{'bias': a tensor\}"):
        program([a, b], 3)
    with pytest.raises(TypeError, match=r"\[0\]\[0\]\[1\] must be a tensor, not int"):
        program([a, 1], 3, bias=c)


@dataclass
class Found:
    boxes: Tensor
    more: object


def test_outputs_are_tuples_lists_and_dicts():
    pair = namedtuple("pair", "a b")

    class Detector(nn.Module):
        def forward(self, x: Tensor) -> Found:
            return Found(x + 1, {"p": pair(x * 2, [x, None, 7])})

    program = to_program(Detector(), (IMAGE,))
    found = program(IMAGE)
    assert type(found["more"]["p"]) is tuple and type(found["more"]["p"][1]) is list
    assert torch.equal(found["boxes"], IMAGE + 1)
    assert found["more"]["p"][1][1:] == [None, 7]
    assert program.notes == (
        "output Found is returned as a dict",
        "output pair is returned as a tuple",
        "captured with these sizes (* is any): input 0 [*, 3, 8, 8]",
    )


def test_a_batch_that_torch_fixes_is_fixed_and_said():
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(4, -1)

    program = to_program(Fixed(), (IMAGE,))
    assert not program.dynamic_batch
    assert len(program.notes) == 2
    assert program.notes[0].startswith("the batch size is fixed at 4: ")
    assert program(IMAGE).shape == (4, 192)


def test_an_input_that_does_not_share_the_batch_may_stay_fixed():
    class Positions(nn.Module):
        def forward(self, x: Tensor, places: Tensor) -> Tensor:
            return x[:, places]

    x, places = torch.randn(2, 5), torch.tensor([0, 3])
    program = to_program(Positions(), (x, places))
    assert program.dynamic_batch
    assert program(torch.randn(7, 5), places).shape == (7, 2)


@pytest.mark.parametrize("name", ["graph", "notes", "inputs", "run", "a b-c"])
def test_a_child_may_have_any_name(name: str):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Linear(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.get_submodule(name)(x)

    model, x = Named(), torch.randn(4, 3)
    program = copy.deepcopy(to_program(model, (torch.randn(2, 3),)))
    assert list(program.state_dict()) == [f"{name}.weight", f"{name}.bias"]
    assert difference(program.train()(x), model(x)) < 1e-6


def test_refusals_name_their_cause_and_print_nothing(capfd: pytest.CaptureFixture[str]):
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class Casts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return x @ x.T

    with pytest.raises(BadInput, match="cannot trace the model: GuardOnDataDependentSymNode"):
        to_program(Branches(), (torch.randn(2, 3),))
    with pytest.raises(BadInput, match="forward uses wrap_with_autocast"):
        to_program(Casts(), (torch.randn(2, 3),))
    with pytest.raises(BadInput, match="RuntimeError: Given groups=1"):
        to_program(Small(), (torch.randn(2, 1, 8, 8),))
    assert capfd.readouterr() == ("", "")


def test_observe_sees_every_node_with_its_value():
    program = to_program(Small(), (IMAGE,))
    seen = {}
    program.run((IMAGE,), observe=lambda node, value: seen.setdefault(node.name, value))
    computed = [n for n in program.graph.nodes if n.op not in ("placeholder", "output")]
    assert list(seen) == [node.name for node in computed]
    assert seen["conv2d"].shape == (4, 8, 6, 6)
    assert {n.meta["module"] for n in computed if n.name == "conv2d"} == {"conv"}


@pytest.mark.parametrize("decomposed", [False, True])
def test_from_exported(decomposed: bool):
    model = nn.Sequential(Small(), nn.Linear(5, 5)).eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (IMAGE,), dynamic_shapes=({0: batch},))
    if decomposed:
        exported = exported.run_decompositions()
    program = from_exported(exported)
    assert list(program.state_dict()) == list(model.state_dict())
    assert program.dynamic_batch
    assert difference(program(IMAGE[:1]), model(IMAGE[:1])) < 1e-6


def test_a_program_can_be_exported_again():
    program = to_program(Small(), (IMAGE,))
    again = to_program(program, (IMAGE,))
    assert list(again.state_dict()) == list(program.state_dict())
    assert torch.equal(again(IMAGE[:3]), program(IMAGE[:3]))


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_sizes_that_would_crash_torch_are_refused(op: str):
    layer = nn.LSTM(4, 6) if op == "lstm" else nn.GRU(4, 6)
    program = to_program(layer, (torch.randn(3, 2, 4),))
    assert isinstance(program, Program)
    program.replace_state({"weight_ih_l0": torch.randn(4, 4), "bias_ih_l0": torch.randn(4)})
    with pytest.raises(BadInput, match="do not fit each other"):
        program(torch.randn(3, 2, 4))


def test_contiguous_behind_attention_is_in_the_program():
    """On a CPU's own kernel the result is in order as it is, so that torch.export would leave it out."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.v, self.out = nn.Linear(24, 64), nn.Linear(24, 64), nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            q, v = (f(x).view(len(x), 5, 4, 16).transpose(1, 2) for f in (self.q, self.v))
            x = F.scaled_dot_product_attention(q, q, v).transpose(1, 2).contiguous()
            return self.out(x.view(len(x), 5, 64))

    x = torch.randn(2, 5, 24)
    result = surgeon.shrink(Written(), x, 0.5, measure=False)
    assert result.way == "program" and result.model(x).shape == (2, 5, 8)
