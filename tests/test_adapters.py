"""LoRA adapters: cut with the layers that they are beside, the scale as it was."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import draw
from torch import Tensor, nn

import surgeon

peft = pytest.importorskip("peft")
torch.set_num_threads(1)
X = draw(2, 16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.q = nn.Linear(16, 32), nn.Linear(32, 48)
        self.b, self.o = nn.Linear(48, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.relu(self.b(F.relu(self.q(F.relu(self.a(x)))))))


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.b, self.o = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.relu(self.b(F.relu(self.q(x)))))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.net = nn.Embedding(20, 16), Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.q(x))


def adapted(model: nn.Module, **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"r": 4, "lora_alpha": 16, "target_modules": ["q", "b"], **options}
    made = peft.get_peft_model(model, peft.LoraConfig(**given))
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            nn.init.normal_(parameter, std=0.3)
    return made


def halved(model: nn.Module, x: Tensor = X, **options: Any) -> surgeon.Result:
    result = surgeon.shrink(model, x, 0.5, measure=False, **options)
    assert result.check is not None and result.check.error < 1e-9
    return result


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"lora_dropout": 0.1, "bias": "all"}]
)
def test_both_factors_follow_their_layer(options: dict[str, Any]):
    model = adapted(Net(), **options)
    result = halved(model)
    assert isinstance(result.model, peft.PeftModel) and result.way == "module"
    layer = result.model.base_model.model.q
    assert layer.base_layer.weight.shape == (24, 16)
    assert layer.lora_A["default"].weight.shape == (4, 16)
    assert layer.lora_B["default"].weight.shape == (24, 4)
    assert (layer.in_features, layer.out_features) == (16, 24)
    assert layer.scaling == model.base_model.model.q.scaling
    frozen = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in result.model.named_parameters()} == frozen


def test_the_rank_stays_and_the_report_says_why():
    result = halved(adapted(Net()))
    why = {x.name: x.why for x in result.plan.left}
    assert "the rank of adapter default" in why["base_model.model.q.lora_A.default"]


@pytest.mark.parametrize(
    "net, x", [(ConvNet, draw(2, 3, 8, 8)), (Words, torch.arange(12).view(2, 6))]
)
def test_convs_and_embeddings(net: type[nn.Module], x: Tensor):
    result = halved(adapted(net()), x)
    layer = result.model.base_model.model.q  # type: ignore[union-attr]
    assert layer.out_features == (4 if net is ConvNet else 8)  # type: ignore[union-attr]
    result.model.train()(x).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters() if p.requires_grad)


def test_the_slim_adapter_is_merged_and_unmerged():
    slim: Any = halved(adapted(Net())).model
    want = slim(X)
    slim.merge_adapter()
    assert torch.allclose(slim(X), want, atol=1e-5)
    slim.unmerge_adapter()
    assert torch.allclose(slim.merge_and_unload()(X), want, atol=1e-5)


def test_a_merged_adapter_is_taken_apart_on_the_copy():
    model = adapted(Net())
    model.merge_adapter()
    weight = model.base_model.model.q.base_layer.weight.clone()
    result = halved(model)
    assert model.base_model.model.q.merged
    assert torch.equal(model.base_model.model.q.base_layer.weight, weight)
    layer = result.model.base_model.model.q  # type: ignore[union-attr]
    assert not layer.merged and layer.lora_A["default"].weight.shape == (4, 16)  # type: ignore[union-attr,operator,index]
    assert any("merged are beside their layers" in note for note in result.notes)


def test_saved_and_loaded_by_peft(tmp_path: Path):
    slim: Any = halved(adapted(Net())).model
    want = slim(X)
    slim.save_pretrained(tmp_path)
    base = copy.deepcopy(slim).unload()
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    assert torch.allclose(again.eval()(X), want, atol=1e-6)


def test_two_adapters():
    model = adapted(Net())
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q"]))
    result = halved(model)
    layer = result.model.base_model.model.q  # type: ignore[union-attr]
    assert layer.lora_A["default"].weight.shape == (4, 16)  # type: ignore[union-attr,index]


class Own(nn.Module):
    """An adapter as people write it, its scale a division by the rank at every forward."""

    def __init__(self, base: nn.Linear, r: int = 4):
        super().__init__()
        self.base, self.r, self.alpha = base, r, 8
        self.down = nn.Parameter(torch.randn(r, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T * (self.alpha / self.r)


def test_an_adapter_of_ones_own_is_a_bottleneck_like_any_other():
    torch.manual_seed(0)
    model = Net()
    model.q = Own(model.q)  # type: ignore[assignment]
    slim = halved(model).model
    assert slim.q.down.shape == (2, 16) and slim.q.up.shape == (24, 2)  # type: ignore[union-attr]
    assert slim.q.alpha / slim.q.r == 2  # type: ignore[union-attr,operator]


def test_gpt2():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_head=4, n_embd=32, vocab_size=50, n_positions=16, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = adapted(
        transformers.GPT2LMHeadModel(config), target_modules=["c_attn", "c_fc"], fan_in_fan_out=True
    )
    result = halved(model, torch.arange(16).view(2, 8))
    assert isinstance(result.model, peft.PeftModel)
