"""Models in the states that people have them in: proven, and given back in the state they came in."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import draw
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

import surgeon
from surgeon.errors import BadInput
from surgeon.shrink import propose

torch.set_num_threads(1)
X = draw(2, 3, 8, 8)
Wrap = Callable[[nn.Module], nn.Module]


class Net(nn.Module):
    """Two convs and two linears with norms between them; `wrap` is put on the middle ones."""

    def __init__(self, wrap: Wrap = lambda m: m, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3), norm(8)
        self.b, self.m = wrap(nn.Conv2d(8, 16, 3)), norm(16)
        self.c, self.d = wrap(nn.Linear(16, 24)), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.a(x)))
        x = F.relu(self.m(self.b(x)))
        return self.d(F.relu(self.c(x.mean((2, 3)))))


def net(*args: object, **kwargs: object) -> Net:
    torch.manual_seed(0)
    made = Net(*args, **kwargs)  # type: ignore[arg-type]
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor += torch.empty_like(tensor).uniform_(-0.3, 0.3)
    return made


def halved(model: nn.Module, x: object = X, **options: object) -> surgeon.Result:
    """Cut at one half and proven: every group that may be cut has lost half of its channels."""
    result = surgeon.shrink(model, x, 0.5, measure=False, **options)  # type: ignore[arg-type]
    assert result.check is not None
    assert result.check.error <= result.check.tolerance
    assert not any(m.training for m in result.model.modules())
    return result


def widths(model: nn.Module) -> tuple[int, ...]:
    """Output channels of the three layers that can be cut."""
    layers = (model.a, model.b, model.c)  # type: ignore[union-attr]
    return tuple(layer.weight.shape[0] for layer in layers)  # type: ignore[union-attr,misc]


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Nothing of the caller's model changes: state, gradients, modes, hooks, classes."""

    def facts() -> list[object]:
        return [
            (
                name,
                type(module),
                module.training,
                list(module._forward_hooks.values()),
                list(module._forward_pre_hooks.values()),
                [
                    (n, id(t), t.requires_grad)
                    for n, t in module._parameters.items()
                    if t is not None
                ],
            )
            for name, module in model.named_modules()
        ]

    state, before = copy.deepcopy(model.state_dict()), facts()
    yield
    assert facts() == before
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.device.type != "meta":
            assert torch.equal(tensor, state[name]), name


def same_state(model: nn.Module, slim: nn.Module) -> None:
    """Each tensor of the slim model has the dtype, device and requires_grad of the one it came from."""
    old = model.state_dict(keep_vars=True)
    for name, tensor in slim.state_dict(keep_vars=True).items():
        was = old[name]
        assert (tensor.dtype, tensor.device, tensor.requires_grad) == (
            was.dtype,
            was.device,
            was.requires_grad,
        ), name


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_one_dtype(self, dtype: torch.dtype):
        model = net().to(dtype)
        with untouched(model):
            result = halved(model, X.to(dtype))
        assert widths(result.model) == (4, 8, 12)
        assert result.check is not None and result.check.dtype == "float64"
        same_state(model, result.model)
        assert result.model(X.to(dtype)).dtype == dtype

    def test_a_bfloat16_body_with_float32_norms(self):
        class Mixed(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = self.n(self.a(x.bfloat16()).float())
                x = self.m(self.b(F.relu(x).bfloat16()).float())
                x = self.c(F.relu(x).bfloat16().mean((2, 3)))
                return self.d(F.relu(x)).float()

        torch.manual_seed(0)
        model = Mixed().bfloat16()
        model.n.float(), model.m.float()
        with untouched(model):
            result = halved(model)
        assert result.check is not None and result.check.error < 1e-12
        same_state(model, result.model)
        assert widths(result.model) == (4, 8, 12)

    def test_channels_last_stays_channels_last(self):
        model = net().to(memory_format=torch.channels_last)
        slim = halved(model, X.contiguous(memory_format=torch.channels_last)).model
        for layer in (slim.a, slim.b):  # type: ignore[union-attr]
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
            assert not layer.weight.is_contiguous()  # type: ignore[union-attr]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda(self):
        model = net().cuda()
        with untouched(model):
            result = halved(model, X.cuda())
        same_state(model, result.model)


class TestWhatIsFrozen:
    @pytest.mark.parametrize("frozen", [("a", "n"), ("a", "b", "c", "d", "n", "m"), ("b",)])
    def test_layers(self, frozen: tuple[str, ...]):
        model = net()
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        with untouched(model):
            result = halved(model)
        same_state(model, result.model)
        assert widths(result.model) == (4, 8, 12)

    def test_tensors_made_in_inference_mode_can_be_trained_after(self):
        with torch.inference_mode():
            model = net()
            x = X.clone()
        slim = halved(model, x).model
        assert widths(slim) == (4, 8, 12)
        slim.train()(X).sum().backward()
        assert all(p.grad is not None for p in slim.parameters())

    @pytest.mark.parametrize("training", [True, False])
    def test_modes_of_the_caller(self, training: bool):
        model = net().train(training)
        model.n.train(not training)
        with untouched(model):
            halved(model)

    def test_in_place_of_gradients(self):
        model = net()
        model(X).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        halved(model)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.equal(parameter.grad, grads[name])


class TestMeta:
    @pytest.fixture
    def model(self) -> Net:
        with torch.device("meta"):
            return Net()

    def test_is_traced_planned_and_cut_without_weights(self, model: Net):
        groups = surgeon.trace(model, X).groups
        assert [g.name for g in groups if g.why_not is None] == ["a", "b", "c"]
        assert propose(model, X, 0.5, criterion="random").plan.removed == 24
        slim = surgeon.shrink(model, X, 0.5, criterion="random", check=False, measure=False).model
        assert widths(slim) == (4, 8, 12)
        assert all(p.is_meta for p in slim.parameters())

    def test_scores_need_values(self, model: Net):
        with pytest.raises(BadInput, match=r"a\.weight is on the meta device: it has no values"):
            propose(model, X, 0.5)

    def test_so_does_a_proof(self, model: Net):
        with pytest.raises(BadInput, match="is on the meta device"):
            surgeon.shrink(model, X, 0.5, criterion="random", measure=False)


def _weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


def _masked(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.4)


def _twice_masked(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(_masked(layer), "bias", 0.3)


class Softplus(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


class Scaled(nn.Module):
    """A length a row, learnt beside the weight; the weight may be assigned to."""

    def __init__(self, rows: int):
        super().__init__()
        self.length = nn.Parameter(torch.rand(rows) + 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.length.reshape(-1, *[1] * (weight.dim() - 1))


class LowRank(nn.Module):
    """A low-rank update of the weight."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self.up = nn.Parameter(torch.randn(shape[0], 2))
        self.down = nn.Parameter(torch.randn(2, shape[1:].numel()))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.5 * (self.up @ self.down).view(weight.shape)


class Sorted(nn.Module):
    """An op that has no channel rule."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * weight.sort(0).values.sigmoid()


class Symmetric(nn.Module):
    """torch's own tutorial: the lower half is the upper one."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Centred(nn.Module):
    """Each row minus its mean: what stays would change with what goes."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.flatten(1).mean(1).reshape(-1, *[1] * (weight.dim() - 1))


def own(make: Callable[[Tensor], nn.Module]) -> Wrap:
    def wrap(layer: nn.Module) -> nn.Module:
        return parametrize.register_parametrization(layer, "weight", make(layer.weight))  # type: ignore[arg-type]

    return wrap


CARRIED: dict[str, Wrap] = {
    "weight_norm": parametrizations.weight_norm,
    "the older weight_norm": _weight_norm,
    "a mask": _masked,
    "masks on weight and bias": _twice_masked,
    "softplus": own(lambda _w: Softplus()),
    "a learnt length": own(lambda w: Scaled(len(w))),
    "a low-rank update": own(lambda w: LowRank(w.shape)),
}
FOLDED: dict[str, Wrap] = {
    "spectral_norm": parametrizations.spectral_norm,
    "the older spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "an op without a rule": own(lambda _w: Sorted()),
    "a mean over rows": own(lambda _w: Centred()),
}


class TestParametrized:
    @pytest.mark.parametrize("how", CARRIED)
    def test_parts_are_cut_where_the_rest_does_not_change(self, how: str):
        model = net(CARRIED[how])
        model.b.bias.requires_grad_(False) if "bias" in dict(model.b.named_parameters()) else None  # type: ignore[union-attr]
        with untouched(model):
            result = halved(model)
        assert widths(result.model) == (4, 8, 12)
        assert list(result.model.state_dict()) == list(model.state_dict())
        same_state(model, result.model)
        assert not any("made plain" in note for note in result.notes)
        result.model.train()(X).sum().backward()

    @pytest.mark.parametrize("how", FOLDED)
    def test_the_weight_is_where_it_does(self, how: str):
        model = net(FOLDED[how])
        first = next(p for n, p in model.b.named_parameters() if "bias" not in n)
        first.requires_grad_(False)
        model.train()
        with untouched(model):
            result = halved(model)
        assert widths(result.model) == (4, 8, 12)
        assert set(result.model.state_dict()) == set(Net().state_dict())
        result.model.load_state_dict(result.model.state_dict())  # the older norm's hooks are gone
        assert type(result.model.b) is nn.Conv2d
        assert not result.model.b.weight.requires_grad and result.model.c.weight.requires_grad  # type: ignore[union-attr]
        assert "parametrized weights made plain in the slim model: b, c" in result.notes
        kept = result.plan.keep["b.weight"]
        twin = copy.deepcopy(model).eval()
        with torch.no_grad():
            twin(X)  # the older hooks compute the weight then
            want = twin.b.weight[list(kept[0])][:, list(kept[1])]  # type: ignore[index]
        assert torch.allclose(result.model.b.weight, want, atol=1e-6)  # type: ignore[arg-type]

    def test_a_symmetric_weight(self):
        class Square(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 3)
                parametrize.register_parametrization(self.b, "weight", Symmetric())

            def forward(self, x: Tensor) -> Tensor:
                return self.c(self.b(self.a(x).relu()).relu())

        torch.manual_seed(0)
        slim = halved(Square(), draw(2, 8)).model
        assert slim.b.weight.shape == (6, 6)  # type: ignore[union-attr]

    def test_the_original_keeps_its_parametrization(self):
        model = net(parametrizations.spectral_norm)
        halved(model)
        assert parametrize.is_parametrized(model.b, "weight")
        assert isinstance(model.b.parametrizations.weight.original, nn.Parameter)  # type: ignore[union-attr]

    def test_taking_it_off_the_slim_model_leaves_the_original_alone(self):
        model = net(parametrizations.weight_norm).eval()
        want = model(X)
        slim = halved(model).model
        parametrize.remove_parametrizations(slim.b, "weight")  # type: ignore[arg-type]
        assert torch.equal(model(X), want)

    def test_what_a_mask_silenced_goes_first(self):
        model = net()
        gone = [1, 3, 4, 6, 8, 9, 12, 15]
        mask = torch.ones(16, 8, 3, 3)
        mask[gone] = 0
        prune.custom_from_mask(model.b, "weight", mask)
        with torch.no_grad():
            model.b.weight_orig[gone] *= 100  # type: ignore[index,operator]
            for weight in (model.m.weight, model.c.weight):
                weight.fill_(1.0)  # type: ignore[operator]
        kept = halved(model).plan.keep["b.weight_orig"][0]
        assert set(kept).isdisjoint(gone)

    def test_the_oracle_runs_the_original(self, monkeypatch: pytest.MonkeyPatch):
        """A fold that computes another weight is found out."""
        from surgeon.trace import folding

        def wrong(module: nn.Module) -> None:
            plain(module)
            module.weight.data.mul_(1.01)  # type: ignore[operator,union-attr]

        plain = folding._plain
        monkeypatch.setattr(folding, "_plain", wrong)
        with pytest.raises(surgeon.CheckFailed, match="made plain change the output"):
            halved(net(parametrizations.orthogonal))

    def test_a_plan_is_replayed_and_checked(self, tmp_path: Path):
        model = net(parametrizations.orthogonal)
        result = halved(model)
        result.plan.save(tmp_path / "plan.json")
        plan = surgeon.Plan.load(tmp_path / "plan.json")
        slim = surgeon.apply(plan, model, X)
        assert torch.equal(slim(X), result.model(X))
        assert surgeon.check(model, slim, plan, X).error < 1e-9
        surgeon.save(result, tmp_path / "slim.pth")
        again = surgeon.load(tmp_path / "slim.pth", model=net(parametrizations.orthogonal))
        assert torch.equal(again(X), result.model(X))


class TestNorms:
    @pytest.mark.parametrize(
        "norm",
        [
            FrozenBatchNorm2d,
            lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
            lambda c: nn.InstanceNorm2d(c, affine=False, track_running_stats=True),
            nn.InstanceNorm2d,
        ],
    )
    def test_other_norms(self, norm: Callable[[int], nn.Module]):
        result = halved(net(norm=norm))
        assert widths(result.model) == (4, 8, 12) and result.way == "module"
        assert getattr(result.model.n, "num_features", 4) == 4

    def test_sync_batch_norm(self):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
        result = halved(model)
        assert isinstance(result.model.n, nn.SyncBatchNorm)
        assert result.model.n.num_features == 4

    def test_a_norm_fused_into_its_conv(self):
        model = net().eval()
        model.a, model.n = fuse_conv_bn_eval(model.a, model.n), nn.Identity()  # type: ignore[arg-type,assignment]
        assert widths(halved(model).model) == (4, 8, 12)


class TestWrapped:
    def test_compiled(self):
        result = halved(torch.compile(net(), backend="eager"))  # type: ignore[arg-type]
        assert isinstance(result.model, Net)

    def test_compiled_within_and_in_place(self):
        model = net()
        model.b = torch.compile(model.b, backend="eager")  # type: ignore[assignment]
        assert halved(model).model.b._orig_mod.out_channels == 8  # type: ignore[union-attr]
        model = net()
        model.compile(backend="eager")
        assert widths(halved(model).model) == (4, 8, 12)

    def test_data_parallel(self):
        assert isinstance(halved(nn.DataParallel(net())).model, Net)

    def test_distributed(self, tmp_path: Path):
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        try:
            model = nn.parallel.DistributedDataParallel(net())
            with untouched(model):
                assert isinstance(halved(model).model, Net)
        finally:
            torch.distributed.destroy_process_group()

    def test_averages(self):
        model = torch.optim.swa_utils.AveragedModel(net())
        slim = halved(model).model
        assert isinstance(slim, torch.optim.swa_utils.AveragedModel)
        assert widths(slim.module) == (4, 8, 12)

    @pytest.mark.parametrize("version", ["ModelEmaV2", "ModelEmaV3"])
    def test_averages_of_timm(self, version: str):
        utils = pytest.importorskip("timm.utils")
        slim = halved(getattr(utils, version)(net())).model
        assert widths(slim.module) == (4, 8, 12)  # type: ignore[arg-type]

    def test_a_slice_of_a_sequential(self):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1))
        slim = halved(model[1:], draw(2, 8, 8, 8)).model
        assert isinstance(slim, nn.Sequential) and slim[1].out_channels == 3
        assert model[2].out_channels == 6

    def test_checkpointed_blocks(self):
        class Saves(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = checkpoint(lambda y: F.relu(self.n(self.a(y))), x, use_reentrant=False)
                x = checkpoint(lambda y: F.relu(self.m(self.b(y))), x, use_reentrant=False)
                return self.d(F.relu(self.c(x.mean((2, 3)))))

        torch.manual_seed(0)
        assert widths(halved(Saves()).model) == (4, 8, 12)


COUNTED = {"calls": 0}
CALLS = 0


def count_globally(*_: object) -> None:
    global CALLS
    CALLS += 1
    COUNTED["calls"] += 1
    print("called")


class TestHooks:
    def test_what_they_keep_and_print_is_not_surgeons(self, capsys: pytest.CaptureFixture):
        model = net()
        kept: dict[str, Tensor] = {}
        seen: list[int] = []
        number = 0

        def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
            nonlocal number
            number += 1
            kept["b"] = out.detach()
            seen.append(len(out))
            print("kept")

        model.b.register_forward_hook(keep)
        model.c.register_forward_pre_hook(count_globally)
        with untouched(model):
            result = halved(model)
        assert (kept, seen, number) == ({}, [], 0)
        assert (CALLS, COUNTED) == (0, {"calls": 0})
        assert capsys.readouterr().out == ""
        result.model(X)
        assert kept["b"].shape[1] == 8 and number == 1 and CALLS == 1
        assert capsys.readouterr().out == "kept\ncalled\n"

    def test_what_they_return_is_followed(self):
        model = net()
        model.b.register_forward_hook(lambda _m, _args, out: out * 2)
        model.c.register_forward_pre_hook(lambda _m, args: (args[0].tanh(),))
        result = halved(model)
        want = result.model(X)
        for layer in (result.model.b, result.model.c):
            layer._forward_hooks.clear(), layer._forward_pre_hooks.clear()  # type: ignore[union-attr]
        assert not torch.allclose(result.model(X), want)

    def test_a_method_of_the_model_itself(self):
        class Looks(Net):
            def __init__(self) -> None:
                super().__init__()
                self.features: list[Tensor] = []
                self.b.register_forward_hook(self.look)

            def look(self, _module: nn.Module, _args: object, out: Tensor) -> None:
                self.features.append(out)

        torch.manual_seed(0)
        model = Looks()
        slim = halved(model).model
        assert model.features == []
        slim(X)
        assert model.features == [] and len(slim.features) == 1  # type: ignore[arg-type]

    def test_a_method_whose_finding_the_forward_reads(self):
        class Reads(Net):
            def __init__(self) -> None:
                super().__init__()
                self.seen: Tensor | None = None
                self.b.register_forward_hook(self.look)

            def look(self, _module: nn.Module, _args: object, out: Tensor) -> None:
                self.seen = out

            def forward(self, x: Tensor) -> Tensor:
                x = super().forward(x)
                assert self.seen is not None
                return x + self.seen.mean()

        torch.manual_seed(0)
        model = Reads()
        result = halved(model)
        assert result.way == "module" and model.seen is None
        result.model(X)
        assert model.seen is None and result.model.seen.shape[1] == 8  # type: ignore[union-attr]

    def test_a_function_that_closes_over_the_model(self):
        class Looks(Net):
            def __init__(self) -> None:
                super().__init__()
                self.features: dict[str, Tensor] = {}
                self.b.register_forward_hook(self.keep("b"))

            def keep(self, name: str):
                def hook(_module: nn.Module, _args: object, out: Tensor) -> None:
                    self.features[name] = out

                return hook

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + self.features["b"].mean()

        torch.manual_seed(0)
        model = Looks()
        result = halved(model)
        assert result.way == "module" and model.features == {}
        result.model(X)
        assert model.features == {} and result.model.features["b"].shape[1] == 8  # type: ignore[union-attr]

    def test_a_program_is_made_without_them_seeing_it(self):
        class Literal(Net):
            def forward(self, x: Tensor) -> Tensor:
                x = F.relu(self.m(self.b(F.relu(self.n(self.a(x))))))
                return self.d(F.relu(self.c(x.view(-1, 16, 16).mean(2))))

        seen: list[int] = []
        torch.manual_seed(0)
        model = Literal()
        model.b.register_forward_hook(lambda *_: seen.append(1))
        with untouched(model):
            result = halved(model)
        assert result.way == "program" and seen == []


def _sparse() -> nn.Module:
    model = net()
    model.c.weight = nn.Parameter(model.c.weight.detach().to_sparse())  # type: ignore[union-attr]
    return model


def _integers() -> nn.Module:
    model = net()
    model.c.weight = nn.Parameter(torch.ones(24, 16, dtype=torch.int8), requires_grad=False)
    return model


def _lazy() -> nn.Module:
    model = net()
    model.c = nn.LazyLinear(24)  # type: ignore[assignment]
    return model


def _scripted_within() -> nn.Module:
    model = net()
    model.b = torch.jit.script(model.b)
    return model


def _dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(net().eval(), {nn.Linear})


def _static() -> nn.Module:
    model = nn.Sequential(torch.ao.quantization.QuantStub(), net()).eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")  # type: ignore[assignment]
    torch.ao.quantization.prepare(model, inplace=True)(X)
    return torch.ao.quantization.convert(model)


def _observed() -> nn.Module:
    model = net().eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")  # type: ignore[assignment]
    return torch.ao.quantization.prepare(model)


def _aware() -> nn.Module:
    model = net().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    return torch.ao.quantization.prepare_qat(model)


def _foreign() -> nn.Module:
    """A layer of a package that quantises, without the package."""
    kind = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    model = net()
    model.c = kind(16, 24)
    return model


class Counted(Tensor):
    """A tensor class with ops of its own."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def _subclass() -> nn.Module:
    model = net()
    del model.m.running_mean
    model.m.running_mean = None
    model.m._buffers["running_mean"] = torch.zeros(16).as_subclass(Counted)
    return model


class TestRefused:
    @pytest.mark.parametrize(
        "make, message, hint",
        [
            (lambda: torch.jit.script(net()), "a TorchScript module cannot be cut", "Python module"),
            (_scripted_within, r"b \(RecursiveScriptModule\) is TorchScript", "Python module"),
            (_lazy, r"c \(LazyLinear\) has not made its weight yet", r"run the model once.*model\(x\)"),
            (_sparse, r"c \(Linear\) holds a tensor that is not dense, weight \(sparse_coo\)", "to_dense"),
            (_subclass, r"m \(BatchNorm2d\) holds a Counted, running_mean", "plain tensor"),
            (_integers, r"c \(Linear\) is quantised: its weight is int8", "prune first, quantise"),
            (_dynamic, r"c \(Linear\) is quantised \(torch\.ao\.nn\.quantized", "prune first, quantise"),
            (_static, r"0 \(Quantize\) is quantised", "prune first, quantise the slim model after"),
            (_observed, r"a\.activation_post_process .* watches values", "prune first, quantise"),
            (_aware, r"a \(Conv2d\) is quantised \(torch\.ao\.nn\.qat", "prune first, quantise"),
            (_foreign, r"c \(Linear4bit\) is quantised \(bitsandbytes", "prune first, quantise"),
        ],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore")
    def test_by_name_with_what_to_do(self, make: Callable[[], nn.Module], message: str, hint: str):
        model = make()
        with pytest.raises(BadInput, match=message) as caught:
            surgeon.shrink(model, X, 0.5)
        assert caught.value.hint is not None
        with pytest.raises(BadInput, match=hint):
            surgeon.trace(model, X)

    def test_nested_tensors(self):
        ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
        model = net()
        model.register_buffer("ragged", ragged)
        with pytest.raises(BadInput, match="holds a nested tensor, ragged"):
            surgeon.trace(model, X)
