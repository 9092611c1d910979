"""The worked examples run, in a tiny setting, and what they say of the networks is so."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.examples import friedman, iterative_mlp, tickets
from benchmarks.examples.common import mlp, params, table, zipped

torch.set_num_threads(1)


def test_friedman() -> None:
    rows = friedman.run(count=500, epochs=2, tuned=1)
    names = [row[0] for row in rows]
    assert names[0] == "dense" and len(rows) == 5
    whole, first = (rows[names.index(f"{x}, l2")] for x in ("all", "first layer only"))
    assert (whole[1], first[1]) == ("32-32", "32-64")
    assert whole[2] < first[2] < rows[0][2] and whole[-1] < first[-1] < rows[0][-1]
    assert all(0 < row[3] < 1000 for row in rows)


def test_iterative_mlp() -> None:
    rows = iterative_mlp.run(epochs=1, tuned=1, seeds=1)
    assert [row[1] for row in rows] == ["300-100", "240-80", "192-64", "154-51", "123-41", "98-33", "98-33"]  # fmt: skip
    assert rows[-2][2] == rows[-1][2] < rows[0][2] and rows[0][3] == ""
    assert all(20 < row[4] <= 100 for row in rows)


def test_tickets(tmp_path: Path) -> None:
    rows = tickets.run(ratios=(0.5,), epochs=2, tuned=3, seeds=1)
    assert [row[0] for row in rows] == [0.0, 0.5] and len(rows[1]) == 1 + len(tickets.WAYS)
    assert all(20 < x <= 100 for x in rows[1][1:])
    tickets.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_zipped_counts_what_is_there() -> None:
    net = mlp()
    with torch.no_grad():
        full = zipped(net)
        net[0].weight.zero_()
    assert zipped(net) < 0.3 * full and params(net) == 266_610
    assert table(["a", "b"], [["x", 1.0], ["yy", 12]]).splitlines() == ["a      b", "x   1.00", "yy    12"]  # fmt: skip
