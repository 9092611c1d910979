"""A scale that follows head_dim keeps its original value, through the weights before it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import build, draw, tokens
from nets.case import TokenNet
from torch import Tensor, nn

import surgeon
from surgeon.errors import CheckFailed


class Attention(TokenNet):
    """Fused qkv and torch's own default scale, 1 / sqrt(head_dim)."""

    heads, width, bias = 2, 32, True

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(32, 3 * self.width, bias=self.bias)
        self.proj = nn.Linear(self.width, 32)
        self.dim = self.width // self.heads

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        b, n, _ = x.shape
        return self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(x.flatten(2))

    def body(self, x: Tensor) -> Tensor:
        return x + self.mix(*self.split(x))


class FromShape(Attention):
    """The scale is computed in forward, from the shape of q."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Divided(Attention):
    """Divided by the root of head_dim, after the product."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class InPlace(Attention):
    """The same in place, and masked in place after it."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1)
        scores /= q.shape[-1] ** 0.5
        scores.masked_fill_(torch.ones(10, 10, dtype=torch.bool).triu(1), -1e9)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class NegatedInPlace(InPlace):
    """Two writes in a row, of which only the second is the scale."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (t.contiguous() for t in self.split(x))
        return x + self.mix(q.neg_(), k, v)


class Rotary(Attention):
    """q and k turned by fixed angles, each element with its partner in the other half."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        angle = torch.arange(10.0, device=x.device, dtype=x.dtype)[:, None]

        def turned(t: Tensor) -> Tensor:
            a, b = t.chunk(2, -1)
            return t * angle.cos() + torch.cat((-b, a), -1) * angle.sin()

        return x + self.mix(turned(q), turned(k), v)


class Normed(Attention):
    """q and k are normalised: the factor belongs into the norms' weights, not into the projection."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = nn.LayerNorm(16), nn.RMSNorm(16)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return x + self.mix(self.q_norm(q), self.k_norm(k), v)


class OwnNorm(Attention):
    """A norm written by hand, its weight a parameter of the module."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(16))

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (t / t.square().mean(-1, keepdim=True).sqrt() for t in self.split(x))
        return x + self.mix(self.gain * q, k * self.gain, v)


class PartBias(Attention):
    """q and v have a bias, k has zeros in its place."""

    bias = False

    def __init__(self):
        super().__init__()
        self.q_bias = nn.Parameter(torch.ones(32))
        self.v_bias = nn.Parameter(torch.ones(32))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        x = F.linear(x, self.qkv.weight, bias)
        return x.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class Pooled(Attention):
    """q is pooled over the tokens, as hierarchical transformers do."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        b, h, n, d = q.shape
        q = F.max_pool1d(q.transpose(-2, -1).reshape(b, h * d, n), 2)
        return self.mix(q.reshape(b, h, d, n // 2).transpose(-2, -1), k, v)


class Twice(Attention):
    """One attention, used twice."""

    def body(self, x: Tensor) -> Tensor:
        return super().body(super().body(x))


class NoPrefix(Attention):
    """Some first tokens are left out of what is done to the others, and here there are none: timm's attention with
    rotary embeddings. What is read there ends there, between the weight with the factor and the product."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return x + self.mix(*(torch.cat((t[:, :, :0], t[:, :, 0:].neg()), 2) for t in (q, k)), v)


class QueryShown(Attention):
    """q is also part of the result: scaling its rows would show, and the key makes up for both."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return x + self.mix(q, k, v) + self.proj(q.transpose(1, 2).flatten(2))


class SeenInPlace(Attention):
    """What is scaled in place is read by another name as well, which a factor would show in."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1)
        seen = scores.flatten(2)
        scores *= q.shape[-1] ** -0.5
        x = self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + seen.softmax(-1).mean((1, 2))[:, None, None]


class KeyIsValue(Attention):
    """The key is the value as well."""

    def body(self, x: Tensor) -> Tensor:
        q, k, _ = self.split(x)
        return x + self.mix(q, k, k)


@pytest.mark.parametrize(
    "net",
    [
        Attention,
        FromShape,
        Divided,
        InPlace,
        NegatedInPlace,
        Rotary,
        Normed,
        OwnNorm,
        PartBias,
        Pooled,
        Twice,
        NoPrefix,
    ],
    ids=lambda c: c.__name__,
)
def test_the_factor_goes_into_the_weights(net: type[nn.Module]):
    result = surgeon.shrink(build(net), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert type(result.model) is net
    assert result.plan.folds


class BothShown(QueryShown):
    """And so is k."""

    def body(self, x: Tensor) -> Tensor:
        return super().body(x) + self.proj(self.split(x)[1].transpose(1, 2).flatten(2))


@pytest.mark.parametrize("net", [BothShown, SeenInPlace, KeyIsValue], ids=lambda c: c.__name__)
def test_where_no_weight_can_take_it_the_program_does(net: type[nn.Module]):
    result = surgeon.shrink(build(net), tokens(), ratio=0.5, measure=False, program=True)
    assert result.way == "program"
    assert not result.plan.folds
    assert result.why is not None and "scale" in result.why


def test_a_scale_that_does_not_follow_is_left_alone():
    class Given(Attention):
        def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            x = F.scaled_dot_product_attention(q, k, v, scale=0.25).transpose(1, 2)
            return self.proj(x.flatten(2))

    result = surgeon.shrink(build(Given), tokens(), ratio=0.5, measure=False)
    assert (result.way, result.plan.folds) == ("module", {})


def test_only_the_rows_of_q_and_k_are_scaled():
    model = build(Attention)
    result = surgeon.shrink(model, tokens(), ratio=0.5, measure=False)
    (q, k, v) = result.model.qkv.weight.detach().split(16)
    kept = list(result.plan.keep["qkv.weight"][0])
    mine = model.qkv.weight.detach()[kept][:, list(result.plan.keep["qkv.weight"][1])]
    factor = (16 / 8) ** -0.25  # of each of the two: the scale is sqrt(sqrt(head_dim)) for both
    torch.testing.assert_close(q, mine[:16] * factor)
    torch.testing.assert_close(k, mine[16:32] * factor)
    torch.testing.assert_close(v, mine[32:])
    assert result.plan.folds["qkv.weight"] == ((0, 32, pytest.approx(factor)),)


class ShownDivided(QueryShown, Divided):
    pass


class ShownFromShape(QueryShown, FromShape):
    pass


@pytest.mark.parametrize(
    "net", [QueryShown, ShownDivided, ShownFromShape], ids=lambda c: c.__name__
)
def test_the_key_takes_it_where_the_query_shows(net: type[nn.Module]):
    """Another op reads q (SAM's relative positions): of the product's two sides k is left."""
    result = surgeon.shrink(build(net), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    factor = pytest.approx((16 / 8) ** -0.5)
    assert result.plan.folds == {"qkv.weight": ((16, 32, factor),), "qkv.bias": ((16, 32, factor),)}


@pytest.mark.parametrize("room", [1, 2 << 30])
def test_a_weight_with_a_factor_is_no_difference(room: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("surgeon.failure._ROOM", room)
    model = build(NoPrefix)
    result = surgeon.shrink(model, tokens(), ratio=0.5, measure=False)
    with torch.no_grad():
        result.model.proj.weight[0, 0] += 1
    with pytest.raises(CheckFailed, match=r"first difference: aten\.t\.default at proj"):
        surgeon.check(model, result.model, result.plan, tokens())


def test_nor_is_what_ends_there_any_multiple():
    model = build(NoPrefix)
    result = surgeon.shrink(model, tokens(), ratio=0.5, measure=False)
    with torch.no_grad():  # outputs stay: what q has too much k has too little
        result.model.qkv.weight[:16] *= 1.5
        result.model.qkv.bias[:16] *= 1.5
        result.model.qkv.weight[16:32] /= 1.5
        result.model.qkv.bias[16:32] /= 1.5
    with pytest.raises(CheckFailed, match="qkv"):
        surgeon.check(model, result.model, result.plan, tokens())


def test_the_model_itself_is_not_scaled():
    model = build(Attention)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    surgeon.shrink(model, tokens(), ratio=0.5, measure=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_tied_weights_are_scaled_once():
    class Tied(Attention):
        def __init__(self):
            super().__init__()
            self.again = nn.Linear(32, 96)
            self.again.weight, self.again.bias = self.qkv.weight, self.qkv.bias

        def body(self, x: Tensor) -> Tensor:
            x = super().body(x)
            y = self.again(x).reshape(*x.shape[:2], 3, self.heads, self.dim)
            return x + self.mix(*y.permute(2, 0, 3, 1, 4).unbind(0))

    result = surgeon.shrink(build(Tied), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert result.model.again.weight is result.model.qkv.weight
    assert result.plan.folds["again.weight"] == result.plan.folds["qkv.weight"]


def test_a_plan_with_factors_is_replayed():
    model = build(Attention)
    result = surgeon.shrink(model, tokens(), ratio=0.5, measure=False)
    again = surgeon.apply(surgeon.Plan.from_json(result.plan.to_json()), model, tokens())
    x = draw(2, 10, 12, seed=3)
    torch.testing.assert_close(again(x), result.model(x))


def test_the_attributes_that_forward_reads_follow():
    result = surgeon.shrink(build(Attention), tokens(), ratio=0.5, measure=False)
    assert (result.model.heads, result.model.dim) == (2, 8)


class Part(nn.Module):
    """Half of a module's channels go through it: both sizes are computed from attributes."""

    def __init__(self):
        super().__init__()
        self.dim, self.part, self.epochs = 24, 8, 24
        self.enter, self.inner = nn.Linear(12, 24), nn.Linear(8, 8)
        self.leave = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).relu().split([self.part, self.dim - self.part], -1)
        return self.leave(torch.cat((self.inner(a), b), -1)).mean(1)


def test_attributes_that_sizes_are_computed_from():
    result = surgeon.shrink(build(Part), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert (result.model.dim, result.model.part) == (12, 4)
    assert result.model.epochs == 24, "a number that only happens to be equal"


def test_sizes_in_a_list():
    class Listed(Part):
        def __init__(self):
            super().__init__()
            self.sizes = [8, 16]

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.enter(x).relu().split(self.sizes, -1)
            return self.leave(torch.cat((self.inner(a), b), -1)).mean(1)

    result = surgeon.shrink(build(Listed), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert result.model.sizes == [4, 8]


def test_the_length_of_equal_runs():
    class Runs(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = 8
            self.enter, self.leave = nn.Linear(12, 32), nn.Linear(32, 5)
            self.inner = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            first, *rest = torch.split(self.enter(x).relu(), self.width, -1)
            parts = [layer(t) for layer, t in zip(self.inner, rest, strict=True)]
            return self.leave(torch.cat((first, *parts), -1)).mean(1)

    result = surgeon.shrink(build(Runs), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert result.model.width == 4


def test_a_slim_with_factors_is_saved_and_loaded(tmp_path: Path):
    file = tmp_path / "net.py"
    file.write_text(
        "import torch.nn.functional as F\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.qkv, self.proj = nn.Linear(12, 48), nn.Linear(16, 5)\n"
        "        self.dim = 8\n\n"
        "    def forward(self, x):\n"
        "        x = self.qkv(x).unflatten(-1, (3, 2, self.dim)).permute(2, 0, 3, 1, 4)\n"
        "        x = F.scaled_dot_product_attention(*x.unbind(0))\n"
        "        return self.proj(x.transpose(1, 2).flatten(2)).mean(1)\n\n\n"
        "def net():\n"
        "    return Net()\n"
    )
    opened = surgeon.open_model(f"{file}:net", input="2,10,12")
    result = surgeon.shrink(opened.model, opened.inputs, ratio=0.5, measure=False)
    assert result.way == "module" and result.plan.folds
    surgeon.save(result, tmp_path / "slim.pth", arch=f"{file}:net")
    x = draw(2, 10, 12, seed=3)
    torch.testing.assert_close(surgeon.load(tmp_path / "slim.pth")(x), result.model(x))


class Turned(TokenNet):
    """Rotary positions as complex numbers, and a scale that torch works out of head_dim."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        angles = torch.rand(10, 4)
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turn).flatten(3)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], 4, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        return x + self.o(y.transpose(1, 2).flatten(2))


def test_a_factor_goes_through_complex_numbers():
    result = surgeon.shrink(
        build(Turned), tokens(), ratio_for={"*:head_dim": 0.5}, round_to=1, measure=False
    )
    assert result.way == "module", result.why
    assert result.check is not None and set(result.plan.folds) >= {"q.weight", "q.bias"}


class Translator(nn.Module):
    """torch's own encoder and decoder; its forward compares the width with d_model."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(50, 32), nn.Embedding(60, 32)
        self.t = nn.Transformer(32, 4, 1, 1, 48, dropout=0.0, batch_first=True)
        self.out = nn.Linear(32, 60, bias=False)
        self.out.weight = self.target.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
        return self.out(self.t(self.source(x), self.target(y), tgt_mask=mask))


def test_transformer_of_torch():
    words = torch.arange(16).reshape(2, 8)
    result = surgeon.shrink(build(Translator), (words, words + 3), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert result.model.t.d_model == 16
    assert result.model.t.decoder.layers[0].multihead_attn.head_dim == 4


class OnRealTensors(TokenNet):
    """A list as an index is looked at, so that it is recorded on real tensors; a width is added to what follows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(32, 24)
        self.outer = nn.Linear(24, 32)

    def body(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x[:, list(range(10))] + self.outer(y + y.shape[-1])


class OnItsData(OnRealTensors):
    """It reads a number of its data, so that ops are not compared one by one."""

    def body(self, x: Tensor) -> Tensor:
        return super().body(x) + (x[..., 0] == x[..., 0]).sum().item()


def test_a_module_whose_ops_tell_that_it_is_wrong_is_cut_as_a_program():
    result = surgeon.shrink(build(OnRealTensors), tokens(), ratio=0.5, measure=False)
    assert result.way == "program"
    assert result.why is not None and "is given (f32[2,10,12], 12)" in result.why
    assert result.check is not None and result.check.error < 1e-9


def test_where_only_numbers_tell_that_a_module_is_wrong_the_width_stays():
    result = surgeon.shrink(build(OnItsData), tokens(), ratio=0.5, measure=False)
    assert result.way == "module" and result.model.inner.out_features == 24
    assert any("computes something else from aten.add.Tensor" in note for note in result.notes)
    assert result.check is not None and result.check.error < 1e-9


def test_a_width_that_is_multiplied_by():
    class Multiplied(OnRealTensors):
        def body(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return x + self.outer(y * y.shape[-1])

    result = surgeon.shrink(build(Multiplied), tokens(), ratio=0.5, measure=False)
    assert result.way == "module", result.why
    assert result.plan.folds == {
        "inner.weight": ((0, 12, 2.0),),
        "inner.bias": ((0, 12, 2.0),),
    }
