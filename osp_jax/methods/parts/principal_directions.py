"""Principal directions of many vectors, from their second moment or, where that is large, from a sketch of it.

The second moment M of n-vectors costs n^2 multiplications a vector. Where few directions are wanted, its products with
random directions suffice (Nystroem; Tropp et al., NeurIPS 2017, arXiv 1706.05736, algorithm 3), at 4 k n for k of them.
"""

from functools import partial

import jax
import jax.numpy as jnp

from osp_jax.methods.parts.moments import matmul


def sketch_of(size: int, directions: int) -> jax.Array | None:
    """Random orthonormal columns `(size, 2 * directions)`; None where the whole second moment costs little more.

    `directions`: how many are wanted; 0: all.
    """
    if not directions or size < 8 * directions:
        return None
    columns = jax.random.normal(jax.random.key(0), (size, 2 * directions))
    return jnp.linalg.qr(columns)[0]


def moment_products(rows: jax.Array, sketch: jax.Array | None) -> jax.Array:
    """The second moment of `rows` `(images, positions, size)`, a sum, or its product with the columns of a sketch."""
    return jnp.einsum("npd,npe->de", rows, rows if sketch is None else matmul(rows, sketch))


@partial(jax.jit, static_argnames="directions")
def principal_directions(products: jax.Array, sketch: jax.Array | None, directions: int) -> tuple[jax.Array, jax.Array]:
    """(orthonormal `(size, k)`, mean squares along them `(k,)`) of vectors, largest last.

    Args:
      products: what `moment_products` returns, divided by the number of vectors.
      sketch: the same.
      directions: k; 0 or more than the size: all.
    """
    k = min(directions or len(products), len(products))
    if sketch is None:
        values, vectors = jnp.linalg.eigh(products)  # ascending
    else:
        values, vectors = _from_sketch(products, sketch)
    return vectors[:, -k:], jnp.maximum(values[-k:], 1e-6 * values[-1])


def _from_sketch(products: jax.Array, sketch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(eigenvalues, ascending; eigenvectors) of the Nystroem approximation of a second moment."""
    shift = jnp.maximum(1e-6 * jnp.linalg.norm(products), 1e-30)  # keeps the Cholesky decomposition stable
    shifted = products + shift * sketch
    core = matmul(sketch.T, shifted)
    root = jnp.linalg.cholesky((core + core.T) / 2)
    half = jax.scipy.linalg.solve_triangular(root, shifted.T, lower=True).T
    vectors, values, _ = jnp.linalg.svd(half, full_matrices=False)
    return (jnp.maximum(values**2 - shift, 0))[::-1], vectors[:, ::-1]
