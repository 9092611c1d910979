"""Inverses and factors of square matrices: rows and columns go together, and what stays changes.

What is left of a covariance is the covariance of what is left: its inverse is another one, so the rows
mix. Eigenvalues are as many as the rows but lie in an order of their own, by value.
"""

from __future__ import annotations

from surgeon.graph import Node
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "matrix"

factor("aten.linalg_inv_ex", "... k! k! -> ... k k, ...", family=FAMILY)
factor("aten.linalg_cholesky_ex", "... k! k! -> ... k k, ...", family=FAMILY)
factor("aten.cholesky_inverse", "... k! k! -> ... k k", family=FAMILY)
factor("aten.cholesky_solve", "... k n, ... k! k! -> ... k n", family=FAMILY)
factor("aten._linalg_det", "... k! k! -> ..., *, *", family=FAMILY)
factor("aten._linalg_slogdet", "... k! k! -> ..., ..., *, *", family=FAMILY)


@chooses("aten._linalg_solve_ex", family=FAMILY, forms=("... k! k!, ... k n -> ... k n, *, *, *",))
def solve(node: Node) -> Form:
    """(a, b, left): the columns of b, each by itself; on the right it is the rows."""
    own = "... k n" if node.kwargs.get("left", True) else "... n k"
    if len(node.args[0].shape) != len(node.args[1].shape):
        own = "... k"
    return Form(f"... k! k!, {own} -> {own}, *, *, *")


@chooses("aten.linalg_solve_triangular", family=FAMILY, forms=("... k! k!, ... k n -> ... k n",))
def solve_triangular(node: Node) -> Form:
    """(a, b, upper, left): as `solve`, of a triangle."""
    own = "... k n" if node.kwargs.get("left", True) else "... n k"
    return Form(f"... k! k!, {own} -> {own}")


@chooses("aten._linalg_eigh", family=FAMILY, forms=("... k! k! -> ... e, ... k e",))
def eigh(node: Node) -> Form:
    """(a, triangle, vectors): the vectors are columns, one for each value."""
    vectors = "... k e" if node.arg(2, True) else "*"
    return Form(f"... k! k! -> ... e, {vectors}", at=(0,), ranked={"e": "k"})


_OBLONG = "has as many singular values as the shorter side of a matrix that is not square"


@chooses("aten._linalg_svd", family=FAMILY, forms=("... k! k! -> ... k e, ... e, ... e k",))
def svd(node: Node) -> Form:
    """(a, full, vectors). Of a matrix that is not square the shorter side says how many values there
    are, and a cut may make it the longer one."""
    rows, columns = node.args[0].shape[-2:]
    if rows != columns:
        return Form("* _ _ -> *, *, *", at=(0,), why=_OBLONG)
    left, right = ("... k e", "... e k") if node.arg(2, True) else ("*", "*")
    return Form(f"... k! k! -> {left}, ... e, {right}", at=(0,), ranked={"e": "k"})
