"""Recording writes down every op and leaves the caller's model, and torch, as they were."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, Case
from torch import Tensor, nn

import surgeon
from surgeon.errors import BadInput
from surgeon.graph import Graph
from surgeon.trace.inputs import Inputs
from surgeon.trace.modules import first_paths, paths_of
from surgeon.trace.program import to_program
from surgeon.trace.record import record
from surgeon.trace.shell import shell, to_meta
from surgeon.trace.tensors import named_state, output_tensors

torch.set_num_threads(1)

each = pytest.mark.parametrize("case", NETS.values(), ids=NETS.keys())
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


# --- what stays as it was ----------------------------------------------------------------------


@each
def test_the_callers_model_is_not_touched(case: Case):
    model = case.build().train()
    before = {n: (id(t), t.clone(), t._version) for n, t in named_state(model).items()}
    inputs = case.inputs()
    copies = [x.clone() for x in inputs]
    record(model, inputs)
    assert {n: id(t) for n, t in named_state(model).items()} == {
        n: i for n, (i, _, _) in before.items()
    }
    for name, tensor in named_state(model).items():
        assert torch.equal(tensor, before[name][1]) and tensor._version == before[name][2]
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))
    assert all(m.training for m in model.modules())


def test_the_mode_of_every_module_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    model[1].eval()
    graph = record(model, (X,))
    assert [m.training for m in model.modules()] == [True, True, False]
    node = next(n for n in graph.nodes if "batch_norm" in n.op)
    assert node.args[5] is False  # recorded in eval mode all the same


def test_requires_grad_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].requires_grad_(False)
    record(model, (X,))
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_hooks_of_the_model_stay_and_none_are_left():
    seen = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[1].register_forward_hook(lambda *_: seen.append(1))
    hooks = nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks
    before = [dict(h) for h in hooks]
    record(model, (X,))
    assert [len(m._forward_hooks) for m in model.modules()] == [0, 0, 1]
    assert [dict(h) for h in hooks] == before


def test_a_failing_forward_leaves_nothing_behind():
    hooks = nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks
    before = [dict(h) for h in hooks]
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(BadInput):
        record(nn.Conv2d(5, 4, 3), (X,))
    assert [dict(h) for h in hooks] == before
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert nn.Conv2d(3, 4, 3)(X).grad_fn is not None


def test_a_model_made_in_inference_mode_is_recorded():
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        x = torch.randn(2, 3, 8, 8)
    assert "aten.convolution.default" in ops(record(model, (x,)))


def test_half_precision_and_meta_models_are_recorded():
    graph = record(nn.Conv2d(3, 4, 3).half(), (X.half(),))
    assert graph.nodes[0].outputs[0].dtype == "f16"
    assert record(nn.Conv2d(3, 4, 3, device="meta"), (X,)).outputs[0].shape == (2, 4, 6, 6)


# --- meta and real -----------------------------------------------------------------------------


@each
def test_outputs_have_their_real_shapes(case: Case):
    model, inputs = case.build(), case.inputs()
    graph = record(model, inputs)
    assert [v.shape for v in graph.outputs] == [
        tuple(t.shape) for t in output_tensors(model(*inputs))
    ]
    assert [v.shape for v in graph.inputs] == [tuple(t.shape) for t in inputs]


class LooksAtValues(nn.Module):
    """Python that asks a tensor for its numbers, as detectors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return x * 2 if x.sum().item() > 1e9 else x.relu()


def test_a_forward_that_reads_values_is_recorded_on_real_tensors():
    graph = record(LooksAtValues(), (X,))
    assert not graph.on_meta
    assert graph.notes[1].startswith("its forward reads numbers at test_record.py:")
    assert re.fullmatch(r"recorded on real tensors: \w+ on meta tensors", graph.notes[0])
    assert "aten.relu.default" in ops(graph)


def test_no_weights_are_read_where_meta_will_do():
    graph = record(NETS["conv_chain"].build(), NETS["conv_chain"].inputs())
    assert graph.on_meta and graph.notes == ()


def test_positions_that_a_model_on_the_meta_device_holds_are_never_known():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(3, 2)
            self.places = torch.tensor([5, 0, 2])

        def forward(self, x):
            return self.second(self.first(x)[:, self.places])

    with torch.device("meta"):
        model, x = Held(), torch.randn(2, 4)
    graph = record(model, x)
    assert graph.on_meta and any("index" in node.op for node in graph.nodes)


def test_a_list_of_positions_in_the_code_is_known():
    graph = record(NETS["gather_list"].build(), NETS["gather_list"].inputs())
    node = next(n for n in graph.nodes if n.op == "aten.index.Tensor")
    assert node.args[1][1].constant.tolist() == [5, 0, 5, 12, 3, 9, 14, 7, 1]


def test_positions_in_a_buffer_and_of_an_arange_are_known():
    class Gather(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.tensor([2, 0, 1]))

        def forward(self, x):
            return x.index_select(1, self.order)[:, torch.arange(2, device=x.device)]

    graph = record(Gather(), (X,))
    known = [v.constant.tolist() for n in graph.nodes for v in n.inputs if v.constant is not None]
    assert graph.on_meta and [2, 0, 1] in known and [0, 1] in known


@pytest.mark.parametrize(
    "name", ["fused_qkv", "grouped_query_flag", "module_attention", "conv_chain"]
)
def test_real_and_meta_tensors_run_the_same_ops(name: str):
    """Attention must not hide in a fused kernel of the CPU."""

    class Values(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NETS[name].build()

        def forward(self, x):
            x.sum().item()
            return self.net(x)

    inputs = NETS[name].inputs()
    real, meta = record(Values(), inputs), record(NETS[name].build(), inputs)
    assert not real.on_meta and meta.on_meta
    real_ops = [o for o in ops(real)[2:] if o != "aten.empty.memory_format"]
    assert real_ops == [o for o in ops(meta) if o != "aten.empty.memory_format"]


# --- names -------------------------------------------------------------------------------------


def test_a_tied_tensor_has_both_names():
    graph = record(NETS["tied_embedding"].build(), NETS["tied_embedding"].inputs())
    assert graph.state["embed.weight"] is graph.state["head.weight"]
    assert graph.state["embed.weight"].state == ("embed.weight", "head.weight")


def test_parameters_buffers_and_non_persistent_buffers_have_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.register_buffer("mean", torch.zeros(3, 1, 1))
            self.register_buffer("hidden", torch.ones(3, 1, 1), persistent=False)

        def forward(self, x):
            return (x - self.mean) * self.scale * self.hidden

    graph = record(Net(), (X,))
    assert set(graph.state) == {"scale", "mean", "hidden"}
    assert graph.parameters == {"scale"}
    used = {name for n in graph.nodes for v in n.inputs for name in v.state}
    assert used == {"scale", "mean", "hidden"}


def test_a_module_used_under_two_names_has_its_state_under_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 3, 1)
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x))

    graph = record(Twice(), (X,))
    assert set(graph.state) == {"one.weight", "one.bias", "two.weight", "two.bias"}
    assert graph.state["one.weight"] is graph.state["two.weight"]
    assert [n.module for n in graph.nodes] == ["one", "one"]


def test_plain_tensor_attributes_and_lists_of_weights_follow():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.ones(3, 1, 1)  # neither parameter nor buffer
            self.lstm = nn.LSTM(8, 4, batch_first=True)

        def forward(self, x):
            return self.lstm((x + self.shift).flatten(1, 2))[0]

    graph = record(Net(), (X,))
    assert graph.on_meta and graph.outputs[0].shape == (2, 24, 4)
    used = {name for n in graph.nodes for v in n.inputs for name in v.state}
    assert "lstm.weight_hh_l0" in used


def test_state_bound_in_a_closure_is_read_as_it_is():
    outside = torch.ones(3, 1, 1)

    class Net(nn.Module):
        def forward(self, x):
            return x * outside

    assert record(Net(), (X,)).outputs[0].shape == (2, 3, 8, 8)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return F.relu(self.conv(x))  # the line of the relu


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Inner()])

    def forward(self, x):
        return self.blocks[0](x) + 1


def test_nodes_know_their_module_and_their_line():
    graph = record(Outer(), (X,))
    assert [(n.op.split(".")[1], n.module) for n in graph.nodes] == [
        ("convolution", "blocks.0.conv"),
        ("relu", "blocks.0"),
        ("add", ""),
    ]
    line = Inner.forward.__code__.co_firstlineno + 1
    assert graph.nodes[1].source == f"test_record.py:{line}"
    assert graph.nodes[0].source == f"test_record.py:{line}"  # torch's own files are not the place


def test_a_node_describes_itself():
    node = record(Outer(), (X,)).nodes[0]
    line = Inner.forward.__code__.co_firstlineno + 1
    assert node.describe() == (
        f"aten.convolution.default at blocks.0.conv (test_record.py:{line})  "
        "f32[2,3,8,8], f32[4,3,3,3], f32[4] -> f32[2,4,6,6]"
    )


def test_writes_in_place_are_the_same_value():
    class Net(nn.Module):
        def forward(self, x):
            y = x + 1
            y.mul_(2)
            return y

    graph = record(Net(), (X,))
    assert graph.nodes[1].outputs[0] is graph.nodes[0].outputs[0] is graph.outputs[0]


def test_an_in_place_transpose_is_another_value():
    class Net(nn.Module):
        def forward(self, x):
            return (x + 1).transpose_(1, 2)

    first, second = record(Net(), (torch.randn(2, 3, 5),)).nodes
    assert first.outputs[0].shape == (2, 3, 5) and second.outputs[0].shape == (2, 5, 3)


# --- inputs and errors -------------------------------------------------------------------------


def test_the_forwards_own_error_is_said_with_the_inputs():
    with pytest.raises(BadInput) as caught:
        record(nn.Sequential(nn.Conv2d(5, 4, 3)), (X,))
    assert caught.value.message.startswith(
        "the model fails in forward: RuntimeError: Given groups=1, weight of size"
    )
    assert caught.value.message.endswith("\n  with inputs f32[2, 3, 8, 8]")
    assert "--input" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_an_error_of_the_models_own_is_said():
    class Broken(nn.Module):
        def forward(self, x, y):
            raise KeyError("no such scale")

    with pytest.raises(
        BadInput,
        match=r"the model fails in forward: KeyError: 'no such scale'\n  with inputs f32\[2, 3, 8, 8\], i64\[2\]",
    ):
        record(Broken(), (X, torch.tensor([1, 2])))


def test_outputs_are_found_in_dicts_tuples_and_dataclasses():
    for name, count in (("dict_output", 2), ("dataclass_output", 2), ("two_in_two_out", 2)):
        case = NETS[name]
        assert len(record(case.build(), case.inputs()).outputs) == count


def test_a_shell_shares_no_tensor_with_the_model_and_keeps_ties():
    model = NETS["tied_embedding"].build()
    twin = shell(model, to_meta)
    assert twin.embed.weight is twin.head.weight and twin.embed.weight.is_meta
    assert isinstance(twin.embed.weight, nn.Parameter)
    assert not model.embed.weight.is_meta


class Table(nn.Module):
    """Sines that no state dict holds: too many to keep their values while it is recorded, and few once they are cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.out = nn.Linear(6, 64), nn.Linear(64, 3)
        self.register_buffer("places", torch.rand(66, 64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(x + self.places[: x.shape[1]].to(x.device))


@pytest.mark.parametrize("made", [lambda net, _: net, to_program], ids=["module", "program"])
def test_a_cut_copy_has_the_values_that_its_original_had(made: Any):
    inputs = Inputs.of(torch.randn(2, 5, 6))
    result = surgeon.shrink(made(Table().eval(), inputs), inputs, 0.5, measure=False)
    assert result.check is not None
    assert result.plan.keep["places"].keys() == {1}


def test_paths_are_torchs():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)))
    model.append(model[1])  # under two paths
    model.register_module("none", None)
    assert list(paths_of(model).items()) == list(model.named_modules(remove_duplicate=False))
    assert [(p, m) for m, p in first_paths(model).items()] == list(model.named_modules())
    model[1].register_module("above", model)
    with pytest.raises(RecursionError):
        paths_of(model)
