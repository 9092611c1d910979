"""Equalities and products of bare element ids."""

import numpy as np
import pytest

from surgeon.classes import Classes, Product, Said, Why, solve

NONE = np.zeros(0, np.int64)


def ids(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count)


def closed(classes: Classes, *elements: int) -> set[int]:
    """Elements that go when these go."""
    removed = np.zeros(classes.count, bool)
    removed[classes.label[list(elements)]] = True
    return set(np.flatnonzero(classes.close(removed)[classes.label]).tolist())


def stays(classes: Classes) -> dict[int, str]:
    """Frozen elements and the reason of each."""
    found = classes.frozen[classes.label]
    return {int(i): classes.reasons[int(found[i])].text for i in np.flatnonzero(found >= 0)}


def test_nothing_is_nothing():
    classes = solve(0, [], [])
    assert classes.count == 0 and classes.reasons == ()


def test_equal_elements_are_one_class():
    classes = solve(6, [(ids(0, 2), ids(2, 2)), (ids(2, 2), ids(4, 2))], [])
    assert classes.count == 2
    assert closed(classes, 1) == {1, 3, 5}
    assert not classes.derived.any()


def test_equality_may_cross():
    classes = solve(4, [(ids(0, 4), ids(0, 4)[::-1])], [])
    assert closed(classes, 0) == {0, 3} and classes.count == 2


def grid(start: int, rows: int, cols: int, p: int, q: int) -> Product:
    """Elements start.. as rows x cols; the factors are p.. and q.."""
    return Product(ids(start, rows * cols), ids(p, rows), ids(q, cols), 7)


def test_a_product_element_goes_with_its_row_and_with_its_column():
    classes = solve(11, [], [grid(0, 2, 3, 6, 8)])
    assert closed(classes, 7) == {7, 3, 4, 5}
    assert closed(classes, 9) == {9, 1, 4}
    assert classes.derived.sum() == 6


def test_products_nest():
    """E = P x Q and Q = R x S: one column of Q goes with S, and with it columns of E."""
    outer = Product(ids(0, 8), ids(8, 2), ids(10, 4), 0)
    inner = Product(ids(10, 4), ids(14, 2), ids(16, 2), 0)
    classes = solve(18, [], [outer, inner])
    assert closed(classes, 14) == {14, 10, 11, 0, 1, 4, 5}
    assert closed(classes, 17) == {17, 11, 13, 1, 3, 5, 7}


def test_atoms_of_looks_through_nested_products():
    outer = Product(ids(0, 8), ids(8, 2), ids(10, 4), 0)
    inner = Product(ids(10, 4), ids(14, 2), ids(16, 2), 0)
    classes = solve(18, [], [outer, inner])
    reach = classes.atoms_of(np.zeros(1, np.int64), classes.label[[5]], 1).toarray()[0]
    assert set(np.flatnonzero(reach)) == set(classes.label[[9, 14, 17]])


def test_two_views_of_one_array_have_equal_factors():
    twice = [grid(0, 2, 3, 6, 8), grid(0, 2, 3, 11, 13)]
    classes = solve(16, [], twice)
    assert closed(classes, 6) == {6, 11, 0, 1, 2}
    assert closed(classes, 10) == {10, 15, 2, 5}
    assert not stays(classes)


def test_equal_elements_of_one_product_have_equal_factors():
    """E[i, j] = E[i + 1, j]: all rows are one, the columns are as they were."""
    repeated = [(ids(0, 3), ids(3, 3))]
    classes = solve(11, repeated, [grid(0, 2, 3, 6, 8)])
    assert closed(classes, 6) == {6, 7, 0, 1, 2, 3, 4, 5}
    assert closed(classes, 9) == {9, 1, 4}


def test_a_product_seen_transposed_keeps_what_is_sound():
    e = ids(0, 6)
    turned = Product(e.reshape(2, 3).T.ravel(), ids(11, 3), ids(14, 2), 0)
    classes = solve(16, [], [grid(0, 2, 3, 6, 8), turned])
    free = set(range(6, 16)) - set(stays(classes))
    assert len(free) >= 5
    for atom in free:
        assert rows_and_columns(closed(classes, atom) & set(range(6)), 2, 3)


def test_products_that_are_not_aligned_give_up_a_factor_and_say_so():
    """2 x 6 and 4 x 3 of one array: one of the two keeps only one factor."""
    classes = solve(27, [], [grid(0, 2, 6, 12, 14), grid(0, 4, 3, 20, 24)])
    said = stays(classes)
    takes = "one op takes the channels as {} and another as {}: no cut keeps both whole"
    assert set(said.values()) <= {takes.format("2*6", "4*3"), takes.format("4*3", "2*6")}
    for atom in set(range(12, 27)) - set(said):
        gone = closed(classes, atom) & set(range(12))
        assert not gone & set(said)
        assert rows_and_columns(gone, 2, 6) and rows_and_columns(gone, 4, 3)


def rows_and_columns(gone: set[int], rows: int, cols: int) -> bool:
    """Whether a set of elements is a union of whole rows and whole columns."""
    box = np.isin(np.arange(rows * cols), list(gone)).reshape(rows, cols)
    return np.array_equal(box, box.all(1)[:, None] | box.all(0))


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_factor_without_ids_stays(with_rows: bool):
    p, q = (ids(6, 2), None) if with_rows else (None, ids(6, 3))
    classes = solve(9, [], [Product(ids(0, 6), p, q, 0)])
    assert closed(classes, 6) == ({6, 0, 1, 2} if with_rows else {6, 0, 3})
    assert not classes.derived.any()


def test_what_is_said_of_an_element_holds_for_its_class():
    said = [(ids(0, 1), Why("output", 3))]
    classes = solve(4, [(ids(0, 2), ids(2, 2))], [], Said(said))
    assert stays(classes) == {0: "output", 2: "output"}
    assert classes.reasons == (Why("output", 3),)


def test_the_first_reason_is_kept():
    said = [(ids(0, 2), Why("first", 1)), (ids(0, 3), Why("second", 2))]
    assert stays(solve(3, [], [], Said(said))) == {0: "first", 1: "first", 2: "second"}


def test_a_frozen_element_freezes_its_row_and_its_column_and_no_other():
    classes = solve(11, [], [grid(0, 2, 3, 6, 8)], Said([(ids(4, 1), Why("read", 0))]))
    assert set(stays(classes)) == {4, 7, 9}


def test_a_mixed_element_mixes_its_factors():
    classes = solve(11, [], [grid(0, 2, 3, 6, 8)], Said((), [(ids(0, 6), Why("softmax", 0))]))
    assert (classes.mixed >= 0).all() and not stays(classes)


def test_freezing_a_factor_leaves_the_elements_to_the_other():
    classes = solve(11, [], [grid(0, 2, 3, 6, 8)], Said([(ids(6, 2), Why("input", 0))]))
    assert set(stays(classes)) == {6, 7}
    assert closed(classes, 8) == {8, 0, 3}


def test_close_leaves_its_argument_alone():
    classes = solve(11, [], [grid(0, 2, 3, 6, 8)])
    removed = np.zeros(classes.count, bool)
    removed[classes.label[6]] = True
    before = removed.copy()
    classes.close(removed)
    assert np.array_equal(before, removed)


def test_solving_is_linear_enough_for_a_million_elements():
    n = 1000
    product = Product(ids(0, n * n), ids(n * n, n), ids(n * n + n, n), 0)
    classes = solve(n * n + 2 * n, [], [product])
    removed = np.zeros(classes.count, bool)
    removed[classes.label[n * n]] = True
    assert classes.close(removed).sum() == n + 1


def test_an_element_that_is_its_own_row_gives_up_the_columns():
    """Channels 0..5, the even ones beside the odd ones as (3 x 2) again, added to the channels: pairs go."""
    channels, merged, columns = ids(0, 6), ids(6, 6), ids(12, 2)
    pairs = (channels[::2], channels[1::2])
    product = Product(merged, channels[::2], columns, 7)
    classes = solve(14, [pairs, (merged, channels)], [product])
    assert closed(classes, 2) == {2, 3, 8, 9}
    assert set(stays(classes)) == {12, 13}
    assert "the same channels stand" in stays(classes)[12]
