"""Thin callbacks: the trainers of others cut while they train, and their optimizers go on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_tune import X, digits, net, right
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import surgeon
from surgeon import BadInput
from surgeon.structure import check_structure

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' own


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What Adam remembered of each weight before each cut, and after it."""
    from surgeon.loop import pruner

    found: list[dict[str, Any]] = []
    carry = pruner.carry

    def noted(optimizer, model, slim, plan) -> None:
        names = {id(p): n for n, p in model.named_parameters()}
        had = {names[id(p)]: s["exp_avg"].clone() for p, s in optimizer.state.items()}
        carry(optimizer, model, slim, plan)
        names = {id(p): n for n, p in slim.named_parameters()}
        has = {names[id(p)]: s["exp_avg"].clone() for p, s in optimizer.state.items()}
        steps = {float(s["step"]) for s in optimizer.state.values()}
        found.append({"had": had, "has": has, "plan": plan, "steps": steps})

    monkeypatch.setattr(pruner, "carry", noted)
    return found


def went_on(seen: list[dict[str, Any]], cuts: int, each: int) -> None:
    from surgeon.slices import sliced

    assert len(seen) == cuts
    for k, cut in enumerate(seen, 1):
        assert cut["steps"] == {float(each * k)}
        for name, own in cut["has"].items():
            want = sliced(cut["had"][name], cut["plan"].keep.get(name, {}))
            for first, last, factor in cut["plan"].folds.get(name, ()):
                want[first:last] /= factor
            torch.testing.assert_close(own, want)


def test_lightning(seen):
    pl = pytest.importorskip("lightning.pytorch")
    from surgeon.callbacks.lightning import Pruning

    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(16).train()

        def training_step(self, batch, _) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.02)

    x, y = digits()
    loader = DataLoader(TensorDataset(x[:600], y[:600]), batch_size=50, shuffle=True)
    how = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    how |= {"enable_checkpointing": False, "enable_model_summary": False}
    torch.manual_seed(0)
    task, cuts = Task(), Pruning(X, 0.5, attribute="net", steps=2, strength=1e-3)
    dense = task.net
    pl.Trainer(max_epochs=5, callbacks=[cuts], **how).fit(task, loader)
    assert cuts.pruner is not None
    assert cuts.pruner.done
    assert task.net is cuts.pruner.model
    assert task.net.conv2.out_channels == 16
    assert dense.conv2.out_channels == 32
    went_on(seen, 2, 12)
    assert right(task.net.eval()) > 0.6
    r = cuts.pruner.result
    assert check_structure(dense, r.model, r.plan, X).error < 1e-9
    with pytest.raises(BadInput, match=r"Task\.model is no network"):
        pl.Trainer(max_epochs=1, callbacks=[Pruning(X, 0.5)], **how).fit(Task(), loader)


class Words(torch.utils.data.Dataset):
    """Digits as sentences: a pixel a word, its grey one of 17."""

    def __init__(self) -> None:
        x, self.labels = digits()
        self.ids = (x.view(-1, 64)[:, ::2] * 16).long()

    def __len__(self) -> int:
        return 96

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[i], "labels": self.labels[i]}


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = transformers.BertConfig(
        vocab_size=17, max_position_embeddings=32, num_labels=10, **small
    )
    return transformers.BertForSequenceClassification(config)


def test_hugging_face(seen, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from surgeon.callbacks.hf import Pruning

    model = bert()
    inputs = {"input_ids": torch.zeros(2, 32, dtype=torch.long)}
    cuts = Pruning(inputs, 0.5, cut="heads,mlp", steps=2, strength=1e-4)
    args = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=3, per_device_train_batch_size=16, learning_rate=1e-3,
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(model, args, train_dataset=Words(), callbacks=[cuts])
    done = trainer.train()
    assert done.global_step == 18
    assert cuts.pruner is not None
    assert cuts.pruner.done
    assert trainer.model is model
    assert model.bert.encoder.layer[0].intermediate.dense.out_features == 32
    assert model.bert.encoder.layer[0].attention.self.query.out_features == 16
    went_on(seen, 2, 6)
    # the trainer's third epoch trained what stays
    held = (
        trainer.optimizer.optimizer
        if hasattr(trainer.optimizer, "optimizer")
        else trainer.optimizer
    )
    own = {id(p) for p in model.parameters()}
    assert {id(p) for g in held.param_groups for p in g["params"]} <= own
    assert {float(s["step"]) for s in held.state.values()} == {18.0}
    r = cuts.pruner.result
    assert check_structure(bert(), r.model, r.plan, r.inputs).error <= 1e-5
    surgeon.save(r, tmp_path / "slim.pth")
    with torch.no_grad():
        want = model.eval()(**inputs).logits
    loaded = surgeon.load(tmp_path / "slim.pth", model=bert())
    torch.testing.assert_close(loaded(**inputs).logits.detach(), want)


def test_in_place_the_callers_object_is_cut_and_a_program_is_refused():
    from nets import NETS

    model = net(16).train()
    conv, keys = model.conv2, list(model.state_dict())
    pruner = surgeon.Pruner(model, X, 0.5, in_place=True)
    assert pruner.step() is model
    assert model.conv2.out_channels == 16
    assert conv.out_channels == 32
    assert list(model.state_dict()) == keys
    assert model.training
    model(X).sum().backward()
    assert check_structure(net(16), pruner.result.model, pruner.result.plan, X).error < 1e-9
    case = NETS["zero_padded_shortcut"]
    other = case.build()
    before = [p.shape for p in other.parameters()]
    with pytest.raises(BadInput, match="only a program can run what is left"):
        surgeon.Pruner(other, case.inputs(), 0.5, in_place=True).step()
    assert [p.shape for p in other.parameters()] == before
