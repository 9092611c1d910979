"""FLOPs against counts by hand, against fvcore, and against the same network taken apart into ATen."""

import logging
from math import prod

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.errors import BadInput
from surgeon.measure.count import FlopCountAnalysis, flops, parameters, state_bytes


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        x = F.relu(self.bottom(F.max_pool2d(skip, 2)))
        return self.last(torch.cat([skip, self.up(x)], 1))


class Function(nn.Module):
    """A function as a module, with the modules that it uses."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.used = function, nn.ModuleList(modules)

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


class FirstOutput(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)[0]


class Aten(TorchDispatchMode):
    """The convention of count.py, applied to the ATen ops that really run."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        out = result[0] if isinstance(result, tuple) else result
        self.total += self.cost(func.overloadpacket.__name__, args, out)
        return result

    def cost(self, op, args, out):
        if op == "convolution":
            spatial = (args[0] if args[6] else out).shape[2:]
            return args[0].shape[0] * prod(args[1].shape) * prod(spatial)
        if op in ("mm", "bmm", "addmm", "baddbmm"):
            return out.numel() * args[op in ("addmm", "baddbmm")].shape[-1]
        if op == "native_batch_norm":
            per_element = (4 if args[5] else 1) + (args[1] is not None)
            return args[0].numel() * per_element
        if op in ("native_layer_norm", "native_group_norm"):
            return args[0].numel() * (5 if args[2 - (op == "native_group_norm")] is not None else 4)
        if op == "mean" or op.startswith("_adaptive_avg_pool"):
            return args[0].numel()
        return out.numel() * {"upsample_bilinear2d": 4, "upsample_nearest2d": 1}.get(op, 0)


def by_aten(model, *inputs):
    with torch.no_grad(), Aten() as count:
        model.eval().to("meta")(*[x.to("meta") for x in inputs])
    return count.total


def by_fvcore(model, x):
    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False)
    with torch.no_grad():
        return analysis.uncalled_modules_warnings(False).total()


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


X = image(1, 8, 14, 14)
NUMEL = 8 * 14 * 14
TOKENS = image(1, 10, 8)

BY_HAND = {
    "conv": (nn.Conv2d(8, 6, 3), X, 6 * 8 * 9 * 12 * 12, 6 * 8 * 9 * 12 * 12),
    "conv same": (nn.Conv2d(8, 6, 3, padding="same"), X, 6 * 8 * 9 * 196, 6 * 8 * 9 * 196),
    "group conv": (nn.Conv2d(8, 8, 3, groups=4), X, 8 * 2 * 9 * 144, 8 * 2 * 9 * 144),
    "transposed": (nn.ConvTranspose2d(8, 6, 2, 2), X, 8 * 6 * 4 * 196, 8 * 6 * 4 * 196),
    "conv 1-D": (nn.Conv1d(8, 6, 3), image(1, 8, 20), 6 * 8 * 3 * 18, 6 * 8 * 3 * 18),
    "linear": (nn.Linear(8, 5), TOKENS, 10 * 8 * 5, 10 * 8 * 5),
    "batch norm": (nn.BatchNorm2d(8), X, 2 * NUMEL, 0),
    "batch norm, plain": (nn.BatchNorm2d(8, affine=False), X, NUMEL, 0),
    "batch norm, batch's own": (nn.BatchNorm2d(8, track_running_stats=False), X, 5 * NUMEL, 0),
    "instance norm": (nn.InstanceNorm2d(8), X, 4 * NUMEL, 0),
    "group norm": (nn.GroupNorm(2, 8), X, 5 * NUMEL, 0),
    "layer norm": (nn.LayerNorm(14), X, 5 * NUMEL, 0),
    "layer norm, plain": (nn.LayerNorm(14, elementwise_affine=False), X, 4 * NUMEL, 0),
    "rms norm": (nn.RMSNorm(14), X, NUMEL, 0),
    "global pool": (nn.AdaptiveAvgPool2d(1), X, NUMEL, 0),
    "adaptive pool": (nn.AdaptiveAvgPool2d(7), X, NUMEL, 0),
    "mean": (Function(lambda x: x.mean((2, 3))), X, NUMEL, 0),
    "average pool": (nn.AvgPool2d(2), X, 0, 0),
    "max pool": (nn.MaxPool2d(2), X, 0, 0),
    "nearest": (nn.Upsample(scale_factor=2), X, 4 * NUMEL, 0),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), X, 16 * NUMEL, 0),
    "pointwise": (Function(lambda x: F.hardswish(F.gelu(x) * x + 1).softmax(1)), X, 0, 0),
    "lstm": (
        FirstOutput(nn.LSTM(8, 6, 2, batch_first=True)),
        TOKENS,
        10 * 4 * 6 * (8 + 6 + 6 + 6),
        10 * 4 * 6 * (8 + 6 + 6 + 6),
    ),
    "gru, both directions": (
        FirstOutput(nn.GRU(8, 6, batch_first=True, bidirectional=True)),
        TOKENS,
        10 * 2 * 3 * 6 * (8 + 6),
        10 * 2 * 3 * 6 * (8 + 6),
    ),
    "attention": (
        Function(lambda x: F.scaled_dot_product_attention(x, x[:, :4], x[:, :4, :6])),
        TOKENS,
        10 * 4 * (8 + 6),
        10 * 4 * (8 + 6),
    ),
    "broadcast matmul": (
        Function(lambda x: torch.ones(3, 10) @ x.expand(7, 10, 8)),
        TOKENS,
        7 * 3 * 10 * 8,
        7 * 3 * 10 * 8,
    ),
    "matrix times vector": (Function(lambda x: x @ torch.ones(8)), TOKENS, 80, 80),
    "einsum": (
        Function(lambda x: torch.einsum("...c,cd->...d", x, torch.ones(8, 5))),
        TOKENS,
        10 * 8 * 5,
        10 * 8 * 5,
    ),
    "einsum without contraction": (
        Function(lambda x: torch.einsum("btc,c->btc", x, torch.ones(8))),
        TOKENS,
        0,
        0,
    ),
    "tensordot": (
        Function(lambda x: torch.tensordot(x, torch.ones(8, 5), 1)),
        TOKENS,
        10 * 8 * 5,
        10 * 8 * 5,
    ),
    "baddbmm": (
        Function(lambda x: torch.baddbmm(torch.ones(1, 10, 10), x, x.mT)),
        TOKENS,
        10 * 10 * 8,
        10 * 10 * 8,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_op_counts_as_the_table_says(name):
    model, x, total, macs = BY_HAND[name]
    counted = flops(model, x)
    assert (counted.total, counted.macs, counted.uncounted) == (total, macs, ())


def test_a_unet_by_hand():
    counted = flops(UNet(), image(1, 3, 16, 16))
    parts = {
        "down": 8 * 3 * 9 * 256,
        "bottom": 16 * 8 * 9 * 64,
        "up": 16 * 8 * 4 * 64,
        "last": 32 * 256,
    }
    assert counted.by_module == {"": sum(parts.values()), **parts}
    assert counted.total == counted.macs == sum(parts.values())


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (torchvision.models.resnet18, 64),
        (torchvision.models.mobilenet_v2, 64),
        (torchvision.models.convnext_tiny, 64),
        (torchvision.models.densenet121, 64),
        (UNet, 32),
    ],
)
def test_networks_agree_with_fvcore_and_with_their_aten_ops(build, size):
    model, x = build().eval(), image(1, 3, size, size)
    counted = flops(model, x)
    assert counted.total == by_fvcore(model, x) == by_aten(model, x)
    assert counted.uncounted == ()


def test_attention_agrees_with_its_aten_ops_where_fvcore_counts_none_of_it():
    model, x = (
        torchvision.models.vit_b_32(image_size=64, num_classes=10).eval(),
        image(1, 3, 64, 64),
    )
    counted = flops(model, x)
    assert counted.total > by_fvcore(model, x)
    assert counted.total == by_aten(model, x)


def test_resnet18_has_its_published_numbers():
    model = torchvision.models.resnet18()
    assert parameters(model) == 11_689_512
    counted = flops(model, image(1, 3, 224, 224))
    assert counted.macs == 1_814_073_344
    assert counted.by_module["layer4.1.conv2"] == 512 * 512 * 9 * 49
    assert counted.by_module[""] == counted.total


def test_the_count_is_of_one_example():
    model = torchvision.models.mobilenet_v3_small()
    assert flops(model, image(4, 3, 64, 64)) == flops(model, image(1, 3, 64, 64))


def test_a_network_that_needs_its_batch_is_divided():
    model = Function(lambda x: nn.functional.linear(x, torch.ones(5, 8)).view(4, 5))
    assert flops(model, image(4, 8)).total == 40


def test_an_input_without_a_batch_is_counted_whole():
    assert flops(nn.Conv2d(8, 6, 3), X[0]) == flops(nn.Conv2d(8, 6, 3), X)


def test_work_on_weights_does_not_grow_with_the_batch():
    weights = torch.ones(5, 5)
    model = Function(lambda x: F.linear(x, weights @ weights))
    assert flops(model, image(4, 5)).total == 25 + 125


def test_nested_and_keyword_inputs_and_any_output():
    two = Function(lambda pair, *, scale=1: {"sum": [linear(pair["a"]), pair["b"] * scale]})
    linear = two.linear = nn.Linear(8, 5)
    pair = {"a": image(2, 8), "b": image(2, 3)}
    assert flops(two, {"pair": pair, "scale": 3}).by_module["linear"] == 40
    assert flops(two, (pair,)).total == 40


def test_graph_modules_count_the_same():
    model, x = torchvision.models.squeezenet1_1().eval(), image(1, 3, 64, 64)
    expected = flops(model, x).total
    assert flops(torch.fx.symbolic_trace(model), x).total == expected
    assert flops(torch.export.export(model, (x,)).module(), x).total == expected


def test_an_unknown_op_is_named():
    counted = flops(Function(lambda x: torch.fft.rfft(x).abs()), TOKENS)
    assert counted.total == 0
    assert counted.uncounted == ("aten::fft_rfft",)


def test_modules_called_through_forward_and_modules_shared_count_once_each_call():
    linear = nn.Linear(8, 8)
    assert flops(Function(lambda x: linear.forward(linear(x)), linear), image(1, 8)).total == 128


def test_the_model_is_left_as_it_was(capsys, caplog):
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Dropout(), nn.Linear(5, 2))
    model[1].eval()
    caplog.set_level(logging.DEBUG)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(BadInput, match="the model's forward fails"):
        flops(model, X)
    flops(model[:2], X)
    assert [module.training for module in model] == [True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert capsys.readouterr() == ("", "")
    assert not [record for record in caplog.records if "fvcore" in record.name]


def test_bytes_count_shared_storage_once():
    tied = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    assert state_bytes(tied) == 2 * 10 * 4 * 4
    tied[1].weight = tied[0].weight
    assert state_bytes(tied) == 10 * 4 * 4
    assert parameters(tied) == 40
    assert state_bytes(nn.BatchNorm1d(3).half()) == 4 * 3 * 2 + 8
    assert state_bytes(nn.Linear(4, 10, device="meta")) == 200
