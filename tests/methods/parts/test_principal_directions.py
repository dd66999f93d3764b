"""Principal directions: NumPy's where the whole second moment is there, and as good a subspace from a sketch."""

import numpy as np
import pytest

from osp_jax.methods.parts.principal_directions import moment_products, principal_directions, sketch_of

ROWS = np.random.default_rng(0).normal(size=(5, 100, 64)).astype(np.float32) @ np.diag(0.85 ** np.arange(64))
ROWS = ROWS.astype(np.float32) @ np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0].astype(np.float32)
MOMENT = np.einsum("npd,npe->de", ROWS.astype(np.float64), ROWS)


def found(rows, directions):
    sketch = sketch_of(rows.shape[-1], directions)
    return sketch, *map(np.asarray, principal_directions(moment_products(rows, sketch), sketch, directions))


@pytest.mark.parametrize(("directions", "number"), [(0, 64), (9, 9), (100, 64)])
def test_without_a_sketch_they_are_numpy_s(directions, number):
    sketch, vectors, values = found(ROWS, directions)
    expected = np.linalg.eigvalsh(MOMENT)[-number:]
    assert sketch is None
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=2e-6 * expected[-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(number), atol=1e-5)


@pytest.mark.parametrize("directions", [5, 8])
def test_from_a_sketch_they_hold_almost_as_much_of_the_vectors(directions):
    sketch, vectors, values = found(ROWS, directions)
    best = np.linalg.eigvalsh(MOMENT)[-directions:]
    assert sketch.shape == (64, 2 * directions)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(directions), atol=1e-5)
    assert np.trace(vectors.T @ MOMENT @ vectors) > 0.9 * best.sum()
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(values[-1], best[-1], rtol=0.1)


def test_from_a_sketch_they_are_exact_for_vectors_of_few_dimensions():
    basis = np.random.default_rng(2).normal(size=(4, 64)).astype(np.float32)
    rows = np.random.default_rng(3).normal(size=(3, 100, 4)).astype(np.float32) @ basis
    _, vectors, values = found(rows, 4)
    exact = np.linalg.eigvalsh(np.einsum("npd,npe->de", rows.astype(np.float64), rows))[-4:]
    np.testing.assert_allclose(values, exact, rtol=1e-3)
    np.testing.assert_allclose(rows @ vectors @ vectors.T, rows, atol=1e-2)


def test_vectors_that_are_zero_have_finite_directions():
    _, vectors, values = found(np.zeros((1, 50, 64), np.float32), 4)
    assert np.isfinite(vectors).all()
    assert np.isfinite(values).all()
