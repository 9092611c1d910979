"""Tensors that modules hold as plain attributes, in no state dict: cut like buffers, unless a forward sets them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.errors import BadInput, OutOfReach
from surgeon.trace.tensors import named_loose

X = torch.randn(2, 10, 12, generator=torch.Generator().manual_seed(0))


class Table(nn.Module):
    """Random positions as a plain attribute, the same for all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 5)
        self.places = torch.rand(1, 10, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.add(self.embed(x)).relu())

    def add(self, x: Tensor) -> Tensor:
        return x + self.places


class Written(Table):
    """Its width stands in the code, so that only a program can be cut."""

    def add(self, x: Tensor) -> Tensor:
        return x.view(-1, 10, 16) + self.places


class Places(nn.Module):
    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places


class Shared(Table):
    """Two modules hold the very same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.second = Places(self.places)

    def add(self, x: Tensor) -> Tensor:
        return self.second(x + self.places)


class WrittenShared(Shared):
    def add(self, x: Tensor) -> Tensor:
        return self.second(x.view(-1, 10, 16) + self.places)


class Grows(Table):
    """Makes more positions where more come, as many channels as its code says."""

    def add(self, x: Tensor) -> Tensor:
        self.have(x.shape[1])
        return x + self.places[:, : x.shape[1]]

    def have(self, count: int) -> None:
        if count > self.places.shape[1]:
            self.places = torch.ones(1, count, 16)


class GrowsBySetattr(Grows):
    def have(self, count: int) -> None:
        if count > self.places.shape[1]:
            setattr(self, "places", torch.ones(1, count, 16))  # noqa: B010


class GrowsInside(Grows):
    """Another module's forward sets it, in a function inside of it."""

    class Keeper(nn.Module):
        def forward(self, table: Table, count: int) -> None:
            def renew() -> None:
                table.places = torch.ones(1, count, 16)

            if count > table.places.shape[1]:
                renew()

    def __init__(self) -> None:
        super().__init__()
        self.keeper = GrowsInside.Keeper()

    def have(self, count: int) -> None:
        self.keeper(self, count)


class Remembers(Table):
    """What one run hands to the next."""

    def add(self, x: Tensor) -> Tensor:
        out = x + self.places
        self.places = 0.5 * out.mean(0, keepdim=True).detach()
        return out


@pytest.mark.parametrize("kind", [Table, Shared])
def test_it_is_cut_with_the_width(kind: type[Table]):
    model = kind()
    before = model.places.clone()
    result = surgeon.shrink(model, X, 0.5, measure=False)
    assert result.check is not None and result.way == "module"
    assert result.reach is not None and result.reach.share > 0.95
    kept = result.plan.keep["places"][2]
    assert len(kept) == 8
    assert torch.equal(result.model.places, before[:, :, list(kept)])  # type: ignore[union-attr]
    assert torch.equal(model.places, before)
    if kind is Shared:
        assert result.model.places is result.model.second.places  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [Written, WrittenShared])
def test_a_program_cuts_it_too(kind: type[Table], tmp_path: Path):
    result = surgeon.shrink(kind(), X, 0.5, measure=False)
    assert result.way == "program"
    assert result.model.get_buffer("places").shape == (1, 10, 8)
    assert "places" not in result.model.state_dict()
    surgeon.save(result, tmp_path / "slim.pth")
    assert torch.equal(surgeon.load(tmp_path / "slim.pth")(X), result.model(X))


def test_a_wrong_slice_of_it_is_found():
    model = Table()
    result = surgeon.shrink(model, X, 0.5, measure=False)
    result.model.places = result.model.places.flip(-1)  # type: ignore[union-attr]
    with pytest.raises(surgeon.CheckFailed):
        surgeon.check(model, result.model, result.plan, X)


def test_it_comes_along_in_the_file(tmp_path: Path):
    result = surgeon.shrink(Table(), X, 0.5, measure=False)
    path = tmp_path / "slim.pth"
    surgeon.save(result, path)
    want = result.model(X)
    assert (surgeon.load(path)(X) - want).abs().max() < 1e-6
    assert torch.equal(surgeon.load(path, model=Table())(X), want)  # which drew other positions
    payload = torch.load(path, weights_only=True)
    payload["constants"]["places"] = torch.zeros(3)
    torch.save(payload, path)
    with pytest.raises(BadInput, match=r"places is \[3\]"):
        surgeon.load(path, model=Table())


def test_a_plan_is_for_networks_with_and_without_it():
    model = Table()
    plan = surgeon.shrink(model, X, 0.5, measure=False).plan
    assert "places" not in plan.model["state"]
    model.leftover = torch.rand(3)  # by a run, or by hand
    again = surgeon.apply(plan, model, X)
    assert torch.equal(again.places, model.places[:, :, list(plan.keep["places"][2])])  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("criterion", ["sensitivity", "taylor", "activation", "fpgm", "l2"])
def test_criteria_read_it_as_they_do_a_buffer(criterion: str):
    torch.manual_seed(0)
    held, plain = Table(), Table()
    plain.load_state_dict(held.state_dict())
    plain.__dict__.pop("places")
    plain.register_buffer("places", held.places)
    plans = [surgeon.propose(m, X, 0.5, criterion=criterion, data=[X]).plan for m in (held, plain)]
    assert plans[0].keep == plans[1].keep
    result = surgeon.shrink(Table(), X, 0.5, criterion=criterion, data=[X], measure=False)
    assert result.recovery is None or result.recovery.fitted <= result.recovery.cut
    assert result.model.places.shape == (1, 10, 8)  # type: ignore[union-attr]


def test_constants_of_dead_channels_do_not_go_into_it():
    """A channel of embed is a constant, and behind head only a plain attribute is added, which no file would hold."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 5, bias=False)
            self.shift = torch.rand(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x).relu()) + self.shift

    model = Late()
    with torch.no_grad():
        model.embed.weight[3], model.embed.bias[3] = 0, 1
    with pytest.raises(OutOfReach, match="no bias behind head takes its constant"):
        surgeon.shrink(model, X, dead=True, measure=False)


@pytest.mark.parametrize("kind", [Grows, GrowsBySetattr, GrowsInside, Remembers])
def test_what_a_forward_sets_stays(kind: type[Table]):
    model = kind()
    assert not named_loose(model)
    groups = {g.name: g.why_not for g in surgeon.trace(model, X).groups}
    assert "no parameter or buffer" in (groups["embed"] or "")
    result = surgeon.shrink(
        nn.Sequential(nn.Linear(12, 12), model), X, 0.5, measure=False
    )  # what is around it may go
    longer = torch.randn(2, 10 if kind is Remembers else 15, 12)
    assert result.model(longer).shape == (*longer.shape[:2], 5)


def test_positions_of_videomae_are_such_a_tensor():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, hidden_size=32, num_hidden_layers=1,
        num_attention_heads=4, intermediate_size=48,
    )  # fmt: skip
    model = transformers.VideoMAEForVideoClassification(config).eval()
    result = surgeon.shrink(model, torch.randn(2, 4, 3, 16, 16), 0.5, measure=False)
    assert result.way == "module" and result.reach is not None and result.reach.share > 0.99
    positions = "videomae.embeddings.position_embeddings"
    assert len(result.plan.keep[positions][2]) == 16
    # a fresh model of half the width has other sines
    assert any(f"computes another {positions}" in note for note in result.notes)


def test_a_tensor_of_the_class_is_looked_over():
    """Ultralytics' heads have such, by the names that their forward sets."""

    class Head(nn.Module):
        anchors = torch.empty(0)

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
            self.stride = torch.ones(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x) * self.stride
            self.anchors = x.new_ones(x.shape[1])
            return self.out(x * self.anchors)

    result = surgeon.shrink(Head(), torch.randn(2, 4), 0.5, measure=False)
    assert result.way == "module" and result.model.stride.shape == (4,)
