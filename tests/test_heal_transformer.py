"""Recovery on a transformer: what takes heads and MLP width is fitted, keyword inputs and masks included."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgeon
from surgeon.budget.field import competing
from surgeon.budget.request import Request

torch.set_num_threads(1)

WIDTH, HEADS, WORDS = 24, 6, 40


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.v, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (f(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for f in (self.q, self.k, self.v))  # fmt: skip
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.between(x))))


class Encoder(nn.Module):
    """Words and a mask -> one vector a text. Its heads and hidden units say much the same: their weights are of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        with torch.no_grad():
            for block in self.blocks:
                for layer in (block.v, block.fc1):
                    out, inp = layer.weight.shape
                    layer.weight.copy_(torch.randn(out, 5) @ torch.randn(5, inp) / 3)
                    layer.weight.add_(0.1 * torch.randn(out, inp))

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(words)
        for block in self.blocks:
            x = block(x, mask)
        kept = mask[..., None].to(x.dtype)
        return (x * kept).sum(1) / kept.sum(1)


def texts(count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(WORDS, (count, 10), generator=generator)
    length = torch.randint(4, 11, (count, 1), generator=generator)
    return {"words": words, "mask": (torch.arange(10) < length).long()}


@pytest.fixture
def net() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


def batches() -> list[dict[str, Tensor]]:
    return [texts(64, seed) for seed in range(6)]


def test_compensation_lowers_the_error_of_outputs_on_new_texts(net: Encoder) -> None:
    new = texts(200, 99)
    want, errors = net(**new), []
    for recover in ("select,allocate", "select,allocate,compensate"):
        how = {"data": batches(), "recover": recover.split(","), "measure": False}
        done = surgeon.shrink(net, texts(2, 7), ratio=0.34, cut="heads,mlp", **how)
        errors.append(F.mse_loss(done.model(**new), want).item())
        for block in done.model.blocks:
            assert block.fc1.out_features < 64
        # the ratio is of each kind that is named: of 12 heads 4 go, of 128 hidden units 44
        gone = {kind: sum(g.size - g.kept for g in done.plan.groups if g.kind == kind) for kind in ("heads", "mlp")}  # fmt: skip
        assert gone == {"heads": 4, "mlp": 44}
    assert errors[1] < 0.5 * errors[0]
    assert done.recovery is not None
    fitted = {name for name, *_ in done.recovery.layers}
    for i, block in enumerate(done.model.blocks):
        cut = {"proj": block.q.out_features < WIDTH, "fc2": block.fc1.out_features < 64}
        assert {f"blocks.{i}.{name}.weight" for name in cut if cut[name]} <= fitted


def test_only_groups_that_may_be_cut_are_studied(
    net: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    coupling = surgeon.trace(net, texts(2, 7)).coupling
    scores = {g.name: torch.ones(g.size).numpy() for g in coupling.groups if g.why_not is None}
    kinds = {
        coupling.group(n).kind for n in competing(coupling, scores, Request(0.3, cut=("mlp",)))
    }
    assert kinds == {"mlp"}
    seen: list[str] = []
    from surgeon.heal import study

    real = study.removal

    def removal(group, *args, **kwargs):
        seen.append(group.kind)
        return real(group, *args, **kwargs)

    monkeypatch.setattr(study, "removal", removal)
    surgeon.propose(net, texts(2, 7), ratio=0.34, cut="mlp", data=batches()[:2])
    assert seen == ["mlp", "mlp"]
