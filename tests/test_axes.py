"""The algebra against numpy: what goes from a tensor is what the same movement makes of a mask."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.axes import Algebra, Dim, Dims, is_opaque, opaque, size_of, sizes
from surgeon.classes import Classes

# --- what goes ---------------------------------------------------------------------------------


def gone_of(dim: Dim, classes: Classes, removed: np.ndarray) -> np.ndarray:
    """Which positions of a dimension go when these classes go."""
    out = np.zeros(1, bool)
    for leaf in dim:
        own = np.zeros(leaf.size, bool) if leaf.ids is None else removed[classes.label[leaf.ids]]
        out = (out[:, None] | own).ravel()
    return out


def mask_of(dims: Dims, classes: Classes, removed: np.ndarray) -> np.ndarray:
    """Which elements of a tensor go."""
    out = np.zeros(tuple(size_of(d) for d in dims), bool)
    for k, dim in enumerate(dims):
        gone = gone_of(dim, classes, removed)
        out |= gone.reshape([-1 if j == k else 1 for j in range(len(dims))])
    return out


def removals(classes: Classes) -> list[np.ndarray]:
    """What goes with each atom that may go."""
    free = np.flatnonzero((classes.frozen < 0) & ~classes.derived)
    return [classes.close(np.arange(classes.count) == atom) for atom in free]


def going_with(a: Algebra, dim: Dim, index: int, *dims: Dim) -> list[list[int]]:
    """Positions of `dims` that go when `index` of a plain axis `dim` goes."""
    classes = a.solve()
    (leaf,) = dim
    assert leaf.ids is not None
    removed = classes.close(np.arange(classes.count) == classes.label[leaf.ids[index]])
    return [np.flatnonzero(gone_of(d, classes, removed)).tolist() for d in dims]


def reasons(a: Algebra, dim: Dim) -> set[str]:
    """Why elements of a dimension may not go."""
    classes = a.solve()
    found = [classes.frozen[classes.label[leaf.ids]] for leaf in dim if leaf.ids is not None]
    return {classes.reasons[i].text for i in np.concatenate([np.zeros(0, int), *found]) if i >= 0}


# --- making ------------------------------------------------------------------------------------


def test_an_axis_of_one_has_no_ids_unless_it_is_a_run():
    a = Algebra()
    assert a.fresh(1) == () and opaque(1) == ()
    assert size_of(a.run(1)) == 1 and not is_opaque(a.run(1))
    assert a.run(0) == ()


def test_every_axis_is_noted_with_its_label():
    a = Algebra()
    a.fresh(4, "conv"), a.run(2, "pad")
    assert [(x.start, x.size, x.label) for x in a.axes] == [(0, 4, "conv"), (4, 2, "pad")]


def test_sizes_are_written_as_products():
    a = Algebra()
    assert sizes(a.fresh(3) + opaque(5)) == "3*5" and sizes(()) == "1"


# --- equal -------------------------------------------------------------------------------------


def test_equal_axes_go_together_one_by_one():
    a = Algebra()
    x, y, z = a.fresh(4), a.fresh(4), a.fresh(4)
    a.equate(x, y)
    a.equate(y, z)
    assert going_with(a, x, 2, x, y, z) == [[2], [2], [2]]


def test_what_meets_the_opaque_stays():
    a = Algebra()
    x = a.fresh(4)
    a.equate(x, opaque(4))
    assert reasons(a, x) == {"meets a dimension that is never cut"}


def test_an_axis_equal_to_a_product_is_that_product():
    a = Algebra()
    x, p, q = a.fresh(12), a.fresh(3), a.fresh(4)
    a.equate(x, p + q)
    assert going_with(a, p, 1, x) == [[4, 5, 6, 7]]
    assert going_with(a, q, 1, x) == [[1, 5, 9]]


def test_products_that_refine_each_other_agree():
    """a x (b c) and (a b) x c are both a x b x c."""
    a = Algebra()
    x = a.fresh(24)
    a2, bc = a.split(x, [2, 12])
    ab, c = a.split(x, [6, 4])
    assert [sizes(d) for d in (a2, bc, ab, c)] == ["2", "12", "2*3", "4"]
    assert ab[0] is a2[0]
    b = ab[1:]
    assert going_with(a, b, 1, x, bc) == [[4, 5, 6, 7, 16, 17, 18, 19], [4, 5, 6, 7]]
    assert going_with(a, c, 3, x, bc) == [[3, 7, 11, 15, 19, 23], [3, 7, 11]]


def test_refinement_goes_both_ways():
    a = Algebra()
    x = a.fresh(24)
    ab, c = a.split(x, [6, 4])
    a2, bc = a.split(x, [2, 12])
    assert [sizes(d) for d in (ab, c, a2, bc)] == ["6", "4", "2", "3*4"]
    assert going_with(a, a2, 1, ab) == [[3, 4, 5]]


def test_products_that_do_not_nest_freeze():
    a = Algebra()
    x = a.fresh(12)
    a.split(x, [3, 4])
    a.split(x, [4, 3])
    assert reasons(a, x) == {
        "one op takes the channels as 3*4 and another as 4*3: no cut keeps both whole"
    }


def test_equating_products_that_do_not_nest_freezes_them():
    a = Algebra()
    x, y = a.fresh(4) + a.fresh(6), a.fresh(6) + a.fresh(4)
    a.equate(x, y)
    why = "4*6 channels meet 6*4: no cut keeps both whole"
    assert reasons(a, x) == reasons(a, y) == {why}


def test_equal_arrays_share_their_factors():
    a = Algebra()
    x, y = a.fresh(12), a.fresh(12)
    p, _ = a.split(x, [3, 4])
    a.equate(x, y)
    assert a.split(y, [3, 4])[0] == p
    r, s = a.split(y, [6, 2])
    assert r[0] is p[0] and sizes(r) == "3*2" and sizes(s) == "2"


# --- reshape -----------------------------------------------------------------------------------


def test_flatten_keeps_the_leaves_in_order():
    a = Algebra()
    c = a.fresh(64)
    flat = a.reshape([(), c, opaque(5), opaque(5)], [1, 1600])
    assert [sizes(d) for d in flat] == ["1", "64*5*5"]
    assert flat[1][0] is c[0]


def test_a_view_there_and_back_is_the_same_axis():
    a = Algebra()
    x = a.fresh(12)
    y = a.reshape(a.reshape([x], [3, 4]), [12])
    assert going_with(a, y[0][:1], 2, x, y[0]) == [[8, 9, 10, 11]] * 2


def test_boundaries_on_no_leaf_freeze_only_what_they_cross():
    a = Algebra()
    x, y, z = a.fresh(4), a.fresh(6), a.fresh(5)
    out = a.reshape([x, y, z], [3, 8, 5])
    assert [size_of(d) for d in out] == [3, 8, 5]
    assert reasons(a, x + y) == {
        "one op takes the channels as 4*6 and another as 3*8: no cut keeps both whole"
    }
    assert out[2] == z and not reasons(a, z)


def test_an_empty_tensor_freezes():
    a = Algebra()
    x = a.fresh(4)
    assert [size_of(d) for d in a.reshape([x, opaque(0)], [0])] == [0]
    assert reasons(a, x) == {"an empty tensor"}


# --- take and concat ---------------------------------------------------------------------------


def test_a_permutation_moves_ids():
    a = Algebra()
    x = a.fresh(5)
    assert going_with(a, x, 1, a.take(x, np.arange(5)[::-1])) == [[3]]


def test_taking_everything_is_the_same_dimension():
    a = Algebra()
    x = a.fresh(5)
    assert a.take(x, np.arange(5)) is x


def test_taking_whole_rows_keeps_the_product():
    a = Algebra()
    p, q = a.fresh(3), a.fresh(4)
    rows = a.take(p + q, np.arange(4, 12))
    assert rows[1:] == q and sizes(rows) == "2*4"


def test_taking_parts_of_rows_still_follows_the_factors():
    a = Algebra()
    p, q = a.fresh(3), a.fresh(4)
    some = a.take(p + q, np.array([0, 5, 6, 11]))
    assert going_with(a, q, 1, some) == [[1]] and going_with(a, p, 1, some) == [[1, 2]]


def test_one_element_by_itself_stays():
    a = Algebra()
    x = a.fresh(5)
    assert a.take(x, np.array([3])) == ()
    classes = a.solve()
    assert reasons(a, x) == {"position 3 is read by itself"}
    assert (classes.frozen >= 0).sum() == 1


def test_one_element_of_a_product_freezes_its_row_and_its_column():
    a = Algebra()
    p, q = a.fresh(3), a.fresh(4)
    a.freeze_at(p + q, 6, "read")
    classes = a.solve()
    stays = [np.flatnonzero(classes.frozen[classes.label[d[0].ids]] >= 0).tolist() for d in (p, q)]
    assert stays == [[1], [2]]


def test_concat_is_one_array_of_ids():
    a = Algebra()
    x, y = a.fresh(3), a.fresh(2)
    both = a.concat([x, y])
    assert going_with(a, y, 1, both) == [[4]]


def test_concat_with_itself_has_each_element_twice():
    a = Algebra()
    x = a.fresh(3)
    assert going_with(a, x, 1, a.concat([x, x])) == [[1, 4]]


def test_parts_of_a_concat_are_the_axes_again():
    a = Algebra()
    x, y = a.fresh(3), a.fresh(2)
    both = a.concat([x, y])
    assert a.take(both, np.arange(3))[0].ids is not None
    assert going_with(a, x, 2, a.take(both, np.arange(3)), a.take(both, np.arange(3, 5))) == [
        [2],
        [],
    ]


def test_what_is_joined_with_the_opaque_goes_alone():
    a = Algebra()
    x = a.fresh(3)
    both = a.concat([x, opaque(2)])
    assert going_with(a, x, 1, both) == [[1]]
    assert reasons(a, both) == {"joined with a dimension that is never cut"}
    assert is_opaque(a.concat([opaque(2), opaque(3)]))


def test_padding_goes_with_what_it_is_added_to():
    """A zero-padded shortcut: the padded channels are those of the wider branch."""
    a = Algebra()
    narrow, wide = a.fresh(4), a.fresh(8)
    a.equate(a.concat([a.run(2), narrow, a.run(2)]), wide)
    assert going_with(a, wide, 0, narrow) == [[]]
    assert going_with(a, wide, 3, narrow) == [[1]]


def test_a_padding_of_one_keeps_its_id():
    a = Algebra()
    x = a.fresh(3)
    assert size_of(a.concat([a.run(1), x])) == 4


# --- products that come back -------------------------------------------------------------------


def test_a_channel_shuffle_exchanges_the_factors():
    a = Algebra()
    x = a.fresh(6)
    p, q = a.split(x, [2, 3])
    (out,) = a.reshape([q, p], [6])
    assert going_with(a, q, 1, x, out) == [[1, 4], [2, 3]]
    y = a.fresh(6)
    a.equate(out, y)  # a convolution reads it
    assert going_with(a, p, 1, x, y) == [[3, 4, 5], [1, 3, 5]]


def test_shuffled_halves_keep_what_can_be_cut():
    """ShuffleNet: halves of x, one by, one through; joined, shuffled, added to what is not shuffled."""
    a = Algebra()
    x = a.fresh(8)
    left, right = a.take(x, np.arange(4)), a.take(x, np.arange(4, 8))
    p, q = a.split(a.concat([left, right]), [2, 4])
    (out,) = a.reshape([q, p], [8])
    taken = a.take(out, np.arange(4))
    classes = a.solve()
    assert (classes.frozen < 0).any()
    for removed in removals(classes):
        before, after = (gone_of(d, classes, removed) for d in (x, out))
        assert np.array_equal(before.reshape(2, 4).T.ravel(), after)
        assert np.array_equal(after[:4], gone_of(taken, classes, removed))


def test_merged_products_are_made_once():
    a = Algebra()
    p, q = a.fresh(3), a.fresh(4)
    assert a.merge(p + q) is a.merge(p + q)
    assert a.merge(p) is p[0]


def test_frozen_and_mixed_reach_the_factors():
    a = Algebra()
    p, q = a.fresh(3), a.fresh(4)
    whole = (a.merge(p + q),)
    a.freeze(whole, "output")
    a.mix(whole, "softmax")
    assert reasons(a, p) == reasons(a, q) == {"output"}
    classes = a.solve()
    assert (classes.mixed >= 0).all()


def test_a_frozen_factor_leaves_the_other_free():
    a = Algebra()
    p, q = a.fresh(3), a.fresh(4)
    whole = (a.merge(p + q),)
    a.freeze(p, "input")
    assert reasons(a, p) == {"input"} and not reasons(a, q)
    assert going_with(a, q, 0, whole) == [[0, 4, 8]]


def test_factors_are_the_finest_product_known():
    a = Algebra()
    x = a.fresh(24)
    a.split(x, [2, 12])
    a.split(x, [6, 4])
    assert sizes(a.factors(x)) == "2*3*4"


# --- random chains -----------------------------------------------------------------------------


class Machine:
    """Tensors in the algebra, and the movements that made one of another, to be tried on masks."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self.algebra = Algebra()
        self.tensors = [tuple(self.algebra.fresh(n) for n in shape) for shape in shapes]
        self.steps: list[tuple] = []

    def shape(self, i: int) -> tuple[int, ...]:
        return tuple(size_of(d) for d in self.tensors[i])

    def add(self, dims: Dims, move, *sources: int) -> None:
        self.tensors.append(tuple(dims))
        self.steps.append((move, sources, len(self.tensors) - 1))

    def check(self) -> int:
        """Every movement makes the mask of its result; how many things may go."""
        classes = self.algebra.solve()
        singles = removals(classes)
        several = [np.any(singles[k::2], axis=0) for k in (0, 1) if singles[k::2]]
        for removed in [*singles, *several]:
            assert not (removed & (classes.frozen >= 0)).any()
            masks = [mask_of(dims, classes, removed) for dims in self.tensors]
            for move, sources, result in self.steps:
                assert np.array_equal(move(*(masks[i] for i in sources)), masks[result])
        return len(singles)


def reshape(m: Machine, i: int, data: st.DataObject) -> None:
    total = math.prod(m.shape(i))
    cuts = sorted(data.draw(st.lists(st.sampled_from(divisors(total)), max_size=2)))
    ends = [1, *(c for k, c in enumerate(cuts) if all(c % b == 0 for b in cuts[:k])), total]
    shape = tuple(b // a for a, b in pairwise(ends) if b % a == 0)
    if math.prod(shape) == total:
        m.add(m.algebra.reshape(m.tensors[i], shape), lambda x: x.reshape(shape), i)


def transpose(m: Machine, i: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(m.tensors[i]))))
    m.add([m.tensors[i][d] for d in order], lambda x: x.transpose(order), i)


def take(m: Machine, i: int, data: st.DataObject) -> None:
    d = data.draw(st.integers(0, len(m.shape(i)) - 1))
    n = m.shape(i)[d]
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n + 2)))
    dims = list(m.tensors[i])
    dims[d] = m.algebra.take(dims[d], index)
    m.add(dims, lambda x: x.take(index, d), i)


def part(m: Machine, i: int, data: st.DataObject) -> None:
    d = data.draw(st.integers(0, len(m.shape(i)) - 1))
    n = m.shape(i)[d]
    step = data.draw(st.sampled_from([1, 1, 2]))
    index = np.arange(n)[
        data.draw(st.sampled_from([slice(0, n // 2 or 1, step), slice(n // 2, n, step)]))
    ]
    dims = list(m.tensors[i])
    dims[d] = m.algebra.take(dims[d], index)
    m.add(dims, lambda x: x.take(index, d), i)


def concat(m: Machine, i: int, data: st.DataObject) -> None:
    d = data.draw(st.integers(0, len(m.shape(i)) - 1))
    like = [
        j
        for j in range(len(m.tensors))
        if len(m.shape(j)) == len(m.shape(i))
        and all(
            k == d or a == b for k, (a, b) in enumerate(zip(m.shape(j), m.shape(i), strict=True))
        )
    ]
    j = data.draw(st.sampled_from(like))
    if m.shape(i)[d] + m.shape(j)[d] > 24:
        return
    dims = list(m.tensors[i])
    for k, (a, b) in enumerate(zip(dims, m.tensors[j], strict=True)):
        if k != d:
            m.algebra.equate(a, b)
    dims[d] = m.algebra.concat([dims[d], m.tensors[j][d]])
    m.add(dims, lambda x, y: np.concatenate([x, y], d), i, j)


def add(m: Machine, i: int, data: st.DataObject) -> None:
    j = data.draw(st.sampled_from([j for j in range(len(m.tensors)) if m.shape(j) == m.shape(i)]))
    for a, b in zip(m.tensors[i], m.tensors[j], strict=True):
        m.algebra.equate(a, b)
    m.steps.append((lambda x: x, (i,), j))


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


STEPS = [reshape, transpose, take, part, concat, add]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_random_chains_move_masks_as_they_move_numbers(data: st.DataObject):
    shapes = st.lists(st.sampled_from([2, 3, 4, 6, 8]), min_size=1, max_size=3).map(tuple)
    m = Machine([data.draw(shapes.filter(lambda s: math.prod(s) <= 48)) for _ in range(2)])
    for _ in range(data.draw(st.integers(1, 6))):
        i = data.draw(st.integers(0, len(m.tensors) - 1))
        if math.prod(m.shape(i)) and m.shape(i):
            data.draw(st.sampled_from(STEPS))(m, i, data)
    m.check()


@pytest.mark.parametrize("seed", range(3))
def test_chains_of_views_and_transposes_freeze_nothing(seed: int):
    """Along boundaries that nest everything may still go."""
    rng = np.random.default_rng(seed)
    m = Machine([(4, 6, 2)])
    for shape in ((24, 2), (4, 2, 3, 2), (8, 6), (2, 2, 12)):
        m.add(m.algebra.reshape(m.tensors[0], shape), lambda x, s=shape: x.reshape(s), 0)
        order = tuple(rng.permutation(len(shape)).tolist())
        last = len(m.tensors) - 1
        m.add([m.tensors[last][d] for d in order], lambda x, o=order: x.transpose(o), last)
    assert m.check() == 2 + 2 + 2 + 3 + 2


def test_a_product_that_was_seen_otherwise_is_frozen_when_its_parts_do_not_nest():
    algebra = Algebra()
    twelve = algebra.fresh(12)
    algebra.split(twelve, [4, 3])
    out = algebra.split(twelve, [2, 3, 2])
    assert [size_of(d) for d in out] == [2, 3, 2] and all(is_opaque(d) for d in out)
    assert (algebra.solve().frozen[algebra.solve().label[:12]] >= 0).all()


def test_what_is_beside_an_empty_dimension_is_seen_as_ever():
    algebra = Algebra()
    width = algebra.fresh(12)
    seen = algebra.reshape([opaque(0), width], [1, 0, 3, 4])
    assert [size_of(dim) for dim in seen] == [1, 0, 3, 4]
    assert all(leaf.ids is not None for dim in seen[2:] for leaf in dim)
    other = algebra.reshape(
        [opaque(0), opaque(2), width], [0, 7]
    )  # of no elements anything can be made
    assert all(leaf.ids is None for dim in other for leaf in dim)
