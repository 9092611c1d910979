"""One test a fault that was found by using or reading surgeon: each failed before its repair."""

import os

import pytest
import torch
import torch.nn.functional as F
from nets import NETS
from torch import Tensor, nn

import surgeon
from surgeon import CheckFailed
from surgeon.errors import BadInput
from surgeon.rules import RULES

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Picks(nn.Module):
    """Channels picked by an integer input: another input would pick others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.b(self.a(x).index_select(1, index))


def test_positions_that_are_an_input_are_not_written_into_the_slim_network():
    inputs = (X, torch.tensor([0, 3, 5, 6]))
    group = next(g for g in surgeon.trace(Picks(), inputs).groups if g.name == "a")
    assert group.why_not is not None and "by position" in group.why_not


class Counts(nn.Module):
    """A forward that writes to its own buffers, integer and float."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean += x.mean()
        return self.b(self.a(x))


def test_tracing_and_checking_write_to_nothing_of_the_callers():
    model = Counts()
    surgeon.shrink(model, X, 0.5, measure=False)
    assert (int(model.calls), model.mean.tolist()) == (0, [0.0, 0.0])


class Looks(Counts):
    """The same, recorded on real tensors because it looks at a value."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) < 1e9 else -x)


def test_recording_on_real_tensors_writes_to_nothing_of_the_callers():
    model = Looks()
    surgeon.trace(model, X)
    assert (int(model.calls), model.mean.tolist()) == (0, [0.0, 0.0])


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=4)
        self.c = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


def test_a_glob_cuts_a_product_as_a_plain_ratio_does():
    plain = surgeon.shrink(Grouped(), X, 0.5, measure=False).model
    glob = surgeon.shrink(Grouped(), X, ratio_for={"*": 0.5}, measure=False).model
    assert glob.b.weight.shape == plain.b.weight.shape


class Log(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.log()))


def test_outputs_that_are_all_nan_prove_nothing():
    model = Log().eval()
    positive = X.abs() + 0.1
    result = surgeon.shrink(model, positive, 0.5, measure=False)
    assert result.check is not None and result.check.error < 1e-9  # on the inputs given
    slim = result.model
    slim.forward = lambda x: 7 * Log.forward(slim, x) + 3  # type: ignore[method-assign]
    with pytest.raises(CheckFailed):
        surgeon.check(model, slim, result.plan, positive)
    with pytest.raises(CheckFailed, match="NaN or infinite"):
        surgeon.check(model, result.model, result.plan, -positive)


class PadMean(nn.Module):
    """Spatial padding, then a mean over channels: padded positions of a removed channel are removed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.pad(self.a(x), (1, 1, 1, 1)).mean(1, keepdim=True))


def test_padding_before_a_mean_over_channels_is_proven():
    result = surgeon.shrink(PadMean(), X, 0.5, measure=False)
    assert result.check is not None and result.plan.groups[0].kept == 4


class Sized(nn.Module):
    """`width` is read by forward; `epochs` only happens to be as large."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3), nn.Linear(64, 5)
        self.width, self.epochs, self.steps = 64, 64, (64, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(-1, self.width, 36).mean(2))


def test_repair_leaves_attributes_alone_that_forward_does_not_read():
    result = surgeon.shrink(Sized(), X, 0.5, measure=False)
    assert result.way == "module"
    assert (result.model.width, result.model.epochs, result.model.steps) == (32, 64, (64, 128))


class Rolls(nn.Module):
    """Four heads that only batch * heads names as a size; it rolls by four and takes every fourth token, too."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(16, 24), nn.Linear(24, 5)
        self.heads, self.width, self.shift, self.step = 4, 24, 4, 4

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x.roll(self.shift, 1)).view(b, n, -1, 6).transpose(1, 2)
        q = q.reshape(b * self.heads, n, 6)
        q = ((q @ q.transpose(1, 2)).softmax(-1) @ q).view(b, -1, n, 6).transpose(1, 2)
        return self.out(q.reshape(b, n, self.width)[:, :: self.step])


def test_repair_finds_which_of_equal_numbers_is_the_width():
    result = surgeon.shrink(Rolls(), torch.randn(2, 8, 16), 0.5, cut=["heads"], measure=False)
    assert result.way == "module"
    slim = result.model
    assert (slim.heads, slim.width, slim.shift, slim.step) == (2, 12, 4, 4)


def test_wrappers_are_seen_through_everywhere():
    model = Grouped().eval()
    wrapped = nn.DataParallel(model)
    result = surgeon.shrink(wrapped, X, 0.5, measure=False)
    assert {g.name for g in surgeon.trace(wrapped, X).groups} == {
        g.name for g in surgeon.trace(model, X).groups
    }
    assert surgeon.check(wrapped, result.model, result.plan, X).error < 1e-9


class FromLoader:
    """A criterion that holds what cannot be copied."""

    def __init__(self) -> None:
        self.batches = (x for x in range(3))

    def __call__(self, group, weights):
        return weights.random.random(group.size)


def test_a_criterion_may_hold_a_generator():
    result = surgeon.shrink(Grouped(), X, 0.5, criterion=FromLoader(), measure=False)
    assert result.plan.request["criterion"] == "FromLoader"


def test_groups_can_be_put_in_sets():
    groups = surgeon.trace(Grouped(), X).groups
    assert len(set(groups)) == len(groups)


@pytest.fixture
def own_rules():
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def test_a_users_rule_counts_tensors_not_arguments(own_rules: None):
    @torch.library.custom_op("surgeon_tests::scaled", mutates_args=())
    def scaled(x: Tensor, k: int, w: Tensor) -> Tensor:
        return x * k * w[:, None, None]

    @scaled.register_fake
    def _(x: Tensor, k: int, w: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
            self.w = nn.Parameter(torch.rand(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.ops.surgeon_tests.scaled(self.a(x), 2, self.w))

    with pytest.raises(BadInput, match="stands in an output and in no input"):
        surgeon.rule("surgeon_tests::other", "n c *, c -> n d *")
    surgeon.rule("surgeon_tests::scaled", "n c *, c -> n c *")
    result = surgeon.shrink(Uses(), X, 0.5, measure=False)
    assert result.model.w.shape == (4,) and result.way == "module"


class Copies(nn.Module):
    """A repeat whose copies are coupled one by one: cutting them changes the number of repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1)
        self.c, self.d = nn.Conv2d(4, 5, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        copies = self.a(x).repeat_interleave(2, 1)
        return self.c(self.b(x) + copies[:, -4:]) + self.d(copies)


def test_a_repeat_whose_copies_are_cut():
    model = Copies()
    for name in (g.name for g in surgeon.trace(model, X).groups if g.why_not is None):
        result = surgeon.shrink(model, X, ratio_for={name: 0.5}, measure=False)
        assert result.check is not None and result.check.error < 1e-9


class CopiesToSize(Copies):
    """The same, with the size that comes out written down (Mamba-2's groups)."""

    def forward(self, x: Tensor) -> Tensor:
        copies = self.a(x).repeat_interleave(2, 1, output_size=12)
        return self.d(copies)


def test_a_repeat_is_told_its_new_size():
    result = surgeon.shrink(CopiesToSize(), X, ratio_for={"a": 0.5}, measure=False)
    assert result.way == "program"
    assert result.model.d.weight.shape == (5, 6, 1, 1)


class KernelEach(nn.Module):
    """A kernel of its own for each example: the conv's groups are the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r, self.o = nn.Conv2d(3, 8, 1), nn.Linear(8, 4), nn.Conv2d(10, 3, 1)
        self.e = nn.Parameter(torch.randn(4, 10 * 8 * 9))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        n = x.shape[0]
        w = (torch.sigmoid(self.r(y.mean((2, 3)))) @ self.e).view(n * 10, 8, 3, 3)
        y = F.conv2d(y.reshape(1, n * 8, 8, 8), w, padding=1, groups=n)
        return self.o(y.view(n, 10, 8, 8))


def test_groups_that_are_the_batch_stay_the_batch():
    model = KernelEach().eval()
    result = surgeon.shrink(model, X, 0.5, measure=False, program=True)
    assert result.way == "program"
    assert result.model(torch.cat([X, X, X])).shape == (6, 3, 8, 8)


class Shift(nn.Module):
    """Runs of channels that may all go: an empty run is still a run of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.o(torch.cat([y[:, :4].roll(1, 0), y[:, 4:8].roll(-1, 0), y[:, 8:]], 1))


class Crop(nn.Module):
    """A run up to the very end, with its end written down."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o, self.p = nn.Conv2d(3, 20, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(20, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.o(y.narrow(1, 16, 4)) + self.p(y)


@pytest.mark.parametrize("net", [Shift, Crop])
@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_runs_of_positions_are_followed(net: type[nn.Module], ratio: float):
    result = surgeon.shrink(net(), X, ratio, measure=False)
    assert result.check is not None and result.check.error < 1e-9


class Circle(nn.Module):
    """Elements that are factors of themselves: nothing can be decided, and it must not take forever."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, 12, 1), nn.Conv2d(36, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = F.pixel_unshuffle(F.pixel_shuffle(torch.cat([y, y], 1), 2).relu(), 2)
        z = torch.cat([y, z], 1)
        n, c, h, w = z.shape
        return self.o(z.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w))


@pytest.mark.timeout(60)
def test_a_circle_of_products_ends():
    assert all(g.why_not is not None for g in surgeon.trace(Circle(), X).groups)


def test_all_channels_of_a_layer_cannot_be_removed():
    with pytest.raises(surgeon.OutOfReach, match="takes all 16 channels of a: one must stay"):
        surgeon.remove(Shift(), X, {"a": range(16)})


def test_only_plain_files_are_replaced(tmp_path):
    pipe, link, real = tmp_path / "pipe", tmp_path / "link.pth", tmp_path / "real.pth"
    os.mkfifo(pipe)
    link.symlink_to(real)
    result = surgeon.shrink(Grouped(), X, 0.5, check=False, measure=False)
    with pytest.raises(surgeon.BadInput, match="not a plain file"):
        surgeon.save(result, pipe)
    with pytest.raises(surgeon.BadInput, match="not a plain file"):
        surgeon.export_onnx(result.model, pipe, X)
    surgeon.save(result, link)
    assert link.is_symlink() and real.is_file()


class Padded(nn.Module):
    """Channels padded with a constant, then mixed by an op that has no weights."""

    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.Conv2d(3, 12, 1), nn.Conv2d(16, 5, 1), mix

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.a(x), (0, 0, 0, 0, 1, 3), value=0.5)
        return self.b(self.mix(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("mix", [nn.Softmax(-1), nn.LayerNorm(16, elementwise_affine=False)])
def test_pads_that_are_mixed_stay_and_the_channels_beside_them_go(mix: nn.Module):
    result = surgeon.shrink(Padded(mix), X, 0.5, measure=False)
    assert result.check is not None
    assert [(g.name, g.kept) for g in result.plan.groups] == [("a", 6)]
    why = {x.name: x.why for x in result.plan.left}["b:in"]
    assert why.startswith("constants or copies that the code makes, where aten.")


class Shortcut(nn.Module):
    """A padded shortcut that meets the wide branch before the norm, on either side of the sum."""

    def __init__(self, pads_first: bool):
        super().__init__()
        self.narrow, self.wide = nn.Linear(6, 10), nn.Linear(10, 16)
        self.norm, self.head, self.first = nn.LayerNorm(16), nn.Linear(16, 3), pads_first

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(x).relu()
        pads, wide = F.pad(y, (2, 4)), self.wide(y)
        return self.head(self.norm(pads + wide if self.first else wide + pads))


@pytest.mark.parametrize("pads_first", [True, False])
def test_pads_that_have_met_channels_go_with_them(pads_first: bool):
    result = surgeon.shrink(Shortcut(pads_first), torch.randn(2, 6), 0.5, measure=False)
    assert result.check is not None
    weight = result.model.state_dict()["wide.weight"]
    assert weight.shape == (8, 5)


def test_pairs_that_a_rotary_embedding_turns_are_cut_together():
    case = NETS["rotary_interleaved"]
    model, inputs = case.build(), case.inputs()
    pairs = next(g for g in surgeon.trace(model, inputs).groups if g.size == 4 and "q" in g.name
                 and any(m.state == "cos" for m in g.members))  # fmt: skip
    assert pairs.why_not is None
    result = surgeon.shrink(model, inputs, ratio_for={pairs.name: 0.5}, measure=False)
    kept = [i % 8 for i in result.plan.keep["q.weight"][0]]
    assert len(kept) == 16 and {i ^ 1 for i in kept} == set(kept)
    assert result.plan.keep["cos"][1] == result.plan.keep["sin"][1] == tuple(sorted(set(kept)))


class Quantisable(nn.Module):
    """A residual as networks that are to be quantised later write it: still of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 5, 1)
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        y = self.add.add_relu(self.a(x), self.b(x))
        return self.out(self.add.cat([y, self.a(x)], 1))


def test_a_network_that_is_to_be_quantised_later_is_no_quantised_one():
    result = surgeon.shrink(Quantisable(), X, 0.5, measure=False)
    assert result.way == "module" and result.model.a.weight.shape[0] == 4


class Multiplies(nn.Module):
    """Rows summed to bags, a form of two vectors, maps unpooled."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(30, 16)
        self.a, self.m, self.out = nn.Linear(16, 12), nn.Bilinear(12, 16, 20), nn.Linear(20, 3)

    def forward(self, i: Tensor) -> Tensor:
        bag = self.bag(i)
        return self.out(torch.relu(self.m(self.a(bag), bag)))


def test_bags_and_bilinear_layers_are_cut():
    result = surgeon.shrink(
        Multiplies(), torch.randint(30, (4, 7)), 0.5, measure=False, round_to=1
    )  # what this CPU likes apart
    m = result.model
    assert result.way == "module" and m.bag.weight.shape == (30, 8)
    assert m.m.weight.shape == (10, 6, 8) and m.m.in1_features == 6 and m.bag.embedding_dim == 8


class Unpools(nn.Module):
    """Maxima put back where they were."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = (
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        y, where = F.max_pool2d(self.a(x), 2, return_indices=True)
        return self.out(F.max_unpool2d(self.b(y).relu(), where, 2))


def test_channels_are_followed_through_unpooling():
    result = surgeon.shrink(Unpools(), X, 0.5, measure=False)
    assert result.model.a.weight.shape[0] == result.model.b.weight.shape[0] == 4


@pytest.mark.parametrize("how", ["repeat", "reshape"])
def test_no_tokens_before_the_others(how: str):
    """As many register tokens as none, of a ViT: f32[0, width], which is cut with the width."""

    class Registers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.out = nn.Linear(8, 16), nn.Linear(16, 4)
            self.none = nn.Parameter(torch.randn(0, 16))

        def forward(self, x: Tensor) -> Tensor:
            x, none = self.stem(x), self.none[None]
            if how == "repeat":
                none = none.repeat(len(x), 1, 1)
            else:
                none = none.expand(len(x), -1, -1).reshape(len(x), 0, x.shape[2])
            return self.out(torch.cat([none, x], 1)).mean(1)

    result = surgeon.shrink(Registers(), torch.randn(2, 5, 8), 0.5, measure=False)
    assert result.way == "module" and result.model.none.shape == (0, 8), result.why
