"""Orthogonality penalties on convolution kernels, all with one signature: kernel HWIO -> scalar.

With W `(C_out, C_in * k * k)`, one vectorised kernel per row:

- `so`: squared Frobenius norm of the smaller Gram matrix minus identity (Bansal et al., 2018; the kernel term of
  OSP, arXiv 2506.19891, is the row Gram, which is the smaller one unless C_out > C_in * k * k, where its rank is too
  low for the identity).
- `dso`: the sum of the same for both Gram matrices (Bansal et al.).
- `srip`: spectral norm of the smaller Gram residual, squared, by power iteration (Bansal et al.; squared, and with
  two products, as in their released code; their paper has the norm itself).
- `ocnn`: Frobenius norm, not squared, of the kernel convolved with itself minus identity, over shifts of up to
  k // 2 pixels as in the released code (Wang et al., 2020); 1x1 kernels use the smaller Gram residual.
- `none`: zero.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from osp_jax.runtime.errors import InputError, unknown

# Norms have no gradient at 0, the value for a perfectly orthogonal kernel.
_EPSILON = 1e-12


def gram_residual(kernel: jax.Array) -> jax.Array:
    """The smaller Gram matrix of an HWIO kernel, minus identity: `(n, n)`, n = min(C_out, C_in * k_h * k_w)."""
    rows = kernel.reshape(-1, kernel.shape[-1]).T  # h w i o -> o (h w i)
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return gram - jnp.eye(gram.shape[0], dtype=gram.dtype)


def gram_error(kernel: jax.Array) -> jax.Array:
    """Frobenius norm of `gram_residual(kernel)`, a scalar; 0 for orthonormal kernels."""
    return jnp.linalg.norm(gram_residual(kernel))


def none(kernel: jax.Array) -> jax.Array:
    return jnp.zeros((), kernel.dtype)


def so(kernel: jax.Array) -> jax.Array:
    return jnp.sum(gram_residual(kernel) ** 2)


def dso(kernel: jax.Array) -> jax.Array:
    rows = kernel.reshape(-1, kernel.shape[-1]).T  # h w i o -> o (h w i)

    def one_side(w: jax.Array) -> jax.Array:
        return jnp.sum((w @ w.T - jnp.eye(w.shape[0], dtype=w.dtype)) ** 2)

    return one_side(rows) + one_side(rows.T)


def srip(kernel: jax.Array) -> jax.Array:
    residual = gram_residual(kernel)
    # A fixed start makes the penalty a function of the kernel alone.
    start = jax.random.uniform(jax.random.key(0), residual.shape[:1], residual.dtype)
    direction = residual @ start
    direction /= jnp.sqrt(jnp.sum(direction**2) + _EPSILON)
    return jnp.sum((residual @ direction) ** 2)


def ocnn(kernel: jax.Array) -> jax.Array:
    k_h, k_w, _, filters = kernel.shape
    if k_h == k_w == 1:
        return jnp.sqrt(jnp.sum(gram_residual(kernel) ** 2) + _EPSILON)
    shifts = lax.conv_general_dilated(  # the bank of kernels as a batch of images: o h w o
        kernel.transpose(3, 0, 1, 2),
        kernel,
        (1, 1),
        ((k_h // 2, k_h // 2), (k_w // 2, k_w // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    centre = (slice(None), shifts.shape[1] // 2, shifts.shape[2] // 2)
    return jnp.sqrt(jnp.sum(shifts.at[centre].add(-jnp.eye(filters, dtype=kernel.dtype)) ** 2) + _EPSILON)


PENALTIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": none,
    "so": so,
    "dso": dso,
    "srip": srip,
    "ocnn": ocnn,
}


def conv_kernels(params: Any, layers: str = "") -> dict[str, jax.Array]:
    """The convolution kernels (HWIO) whose module path matches the regular expression `layers`, by path.

    Raises:
      InputError: `layers` is not a regular expression, or matches no convolution.
    """
    try:
        pattern = re.compile(layers)
    except re.error as error:
        raise InputError(f"orthogonality.layers {layers!r} is not a regular expression: {error}") from error
    kernels = {
        "/".join(map(str, path[:-1])): leaf
        for path, leaf in traverse_util.flatten_dict(params).items()
        if path[-1] == "kernel" and leaf.ndim == 4
    }
    chosen = {path: kernel for path, kernel in kernels.items() if pattern.search(path)}
    if kernels and not chosen:
        raise InputError(f"orthogonality.layers {layers!r} matches none of: {', '.join(kernels)}")
    return chosen


def penalty(params: Any, name: str, layers: str = "") -> jax.Array:
    """The sum of the penalty `name` over `conv_kernels(params, layers)`, a scalar, unweighted.

    Raises:
      InputError: an unknown penalty, or as `conv_kernels`.
    """
    if name not in PENALTIES:
        raise unknown("orthogonality penalty", name, PENALTIES)
    return sum((PENALTIES[name](kernel) for kernel in conv_kernels(params, layers).values()), jnp.zeros(()))


def gram_errors(params: Any) -> dict[str, jax.Array]:
    """`gram_error` of every convolution, by module path."""
    return {path: gram_error(kernel) for path, kernel in conv_kernels(params).items()}
