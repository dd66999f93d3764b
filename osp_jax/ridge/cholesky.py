"""Cholesky factors in float64 on the host: of a sum of second moments, and after removing some of its rows."""

import numpy as np
import scipy.linalg

_BLOCKS = 32, 128  # columns that are updated together, for few rows and for many


def factor(matrix: np.ndarray, ridge: float) -> np.ndarray:
    """The lower factor float64 `(m, m)` of `matrix + ridge I`, where the last entry, of the intercept, has no ridge.

    Raises:
      numpy.linalg.LinAlgError: the matrix is not positive definite.
    """
    matrix = np.array(matrix, np.float64, order="F")
    places = np.arange(len(matrix) - 1)
    matrix[places, places] += ridge
    return scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)


def solved(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`(lower lower')^-1 right`, float64 `(m, k)`."""
    return scipy.linalg.cho_solve((lower, True), right, check_finite=False)


def downdated(lower: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The lower factor of `lower lower' - rows' rows`, for `rows` `(k, m)`; about 2 k m^2 operations, in blocks.

    With S the rows in the coordinates of a block's factor, L^-1 rows', the block becomes L chol(I - S S'), and the
    columns and rows below follow from the same hyperbolic rotation (Golub and Van Loan, Matrix Computations, 4th
    edition, section 6.5.4, there for one row).

    Raises:
      numpy.linalg.LinAlgError: the result is not positive definite.
    """
    lower, rest = np.array(lower, np.float64, order="F"), np.array(rows, np.float64).T
    size, count = rest.shape
    width = _BLOCKS[count > _BLOCKS[0]]
    for start in range(0, size, width):
        block, below = slice(start, min(start + width, size)), slice(min(start + width, size), size)
        square = lower[block, block]
        inner = scipy.linalg.solve_triangular(square, rest[block], lower=True, check_finite=False)
        one = scipy.linalg.cholesky(np.eye(len(square)) - inner @ inner.T, lower=True, check_finite=False)
        two = scipy.linalg.cholesky(np.eye(count) - inner.T @ inner, lower=True, check_finite=False)
        columns, left = lower[below, block], rest[below]
        columns, left = _behind(columns - left @ inner.T, one), _behind(left - columns @ inner, two)
        lower[block, block], lower[below, block], rest[below] = square @ one, columns, left
    return lower


def _behind(matrix: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """`matrix lower'^-1`."""
    return scipy.linalg.solve_triangular(lower, matrix.T, lower=True, check_finite=False).T
