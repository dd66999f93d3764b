"""Verifies gates on a few images: masked variables against scaled values.

It runs in float32 at the highest precision, independent of the network's own precision. Gates that fail are tried again
in float64, since in a deep network rounding alone can exceed the tolerance.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from osp_jax.program.flat import evaluate, flatten, signature
from osp_jax.program.gate import Gate, spread
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError

TOLERANCE = 1e-5  # relative to the largest logit
GROUP_SIZE = 12  # gates that are tried together; more would hide each other's errors
MOST_IMAGES = 4


class _Claim(NamedTuple):
    """The claim that scaling the leaves of one side of a gate, and zeroing its kernels, equals scaling its value."""

    gate: int
    side: str
    kernels: bool


class _Subject(NamedTuple):
    """The program to try gates on. `run(dtype, leaves, images, gains)`, one gain vector per gate, returns logits."""

    gates: Sequence[Gate]
    paths: Sequence[str]
    leaves: Sequence[Any]
    images: jax.Array
    run: Callable[..., jax.Array]


def proved(
    gates: Sequence[Gate], program: Program, apply: Callable[[Any, jax.Array], jax.Array], variables: Any, images: Any
) -> list[Gate | None]:
    """Each gate with the claims that hold, or None if none does.

    Args:
      program: the program of `apply`, in which the gates were found.
      images: normalised, `(batch, h, w, c)`; only the first few are used.

    Raises:
      InputError: the logits are not finite.
    """
    images = images[:MOST_IMAGES] if len(images) > 1 else jnp.concatenate([images, images])
    flat = flatten(apply, variables, images)
    if signature(flat) != signature(program.closed):
        raise depends_on_batch()
    places = tuple((gate.value, gate.axis) for gate in gates)
    run = jax.jit(partial(_scaled_logits, flat, places), static_argnums=0)
    subject = _Subject(gates, list(program.leaves), jax.tree.leaves(variables), images, run)
    _check_finite(subject)
    sides = [(number, side) for side in ("writers", "readers") for number in range(len(gates))]
    claims = [_Claim(n, side, side == "writers") for n, side in sides if getattr(gates[n], side)]
    held = _verified_claims(subject, claims)
    return [_with_verified_sides(gate, number, held) for number, gate in enumerate(gates)]


def depends_on_batch() -> InputError:
    return InputError("the network runs other operations for another number of images; `apply` must not depend on it")


def _check_finite(subject: _Subject) -> None:
    ones = [np.ones(gate.channels, np.float32) for gate in subject.gates]
    logits = np.asarray(subject.run(jnp.float32, subject.leaves, subject.images, ones))
    if not np.isfinite(logits).all():
        raise InputError("the network's logits are not finite on the first images; give trained variables")


def _with_verified_sides(gate: Gate, number: int, held: set[_Claim]) -> Gate | None:
    def has(side: str, kernels: bool) -> bool:
        return _Claim(number, side, kernels) in held

    gate = dataclasses.replace(
        gate,
        writers=gate.writers if has("writers", True) or has("writers", False) else (),
        readers=gate.readers if has("readers", False) else (),
        kernels=gate.kernels if has("writers", True) else (),
    )
    return gate if gate.factors else None


def _verified_claims(subject: _Subject, claims: Sequence[_Claim]) -> set[_Claim]:
    """The claims that hold. Distant gates are tried together; if that fails, one by one."""
    held: set[_Claim] = set()
    count = max(1, math.ceil(len(claims) / GROUP_SIZE))
    for start in range(count):
        some = claims[start::count]
        if _error(subject, some, jnp.float32) <= TOLERANCE:
            held |= set(some)
            continue
        for claim in some:
            weaker = dict.fromkeys([claim, claim._replace(kernels=False)])
            held |= set(itertools.islice((c for c in weaker if _holds(subject, c)), 1))
    return held


def _holds(subject: _Subject, claim: _Claim) -> bool:
    if _error(subject, [claim], jnp.float32) <= TOLERANCE:
        return True
    with jax.enable_x64(True):
        return _error(subject, [claim], jnp.float64) <= TOLERANCE


def _error(subject: _Subject, claims: Sequence[_Claim], dtype: Any) -> float:
    """The largest difference between masked and scaled logits, relative to the largest logit."""
    rng = np.random.default_rng(0)
    scales = [np.ones(gate.channels, np.float32) for gate in subject.gates]
    masked = dict(zip(subject.paths, subject.leaves, strict=True))
    for claim in claims:
        gate, gain = subject.gates[claim.gate], _random_gains(rng, subject.gates[claim.gate].channels)
        scales[claim.gate] = scales[claim.gate] * gain
        for factor in getattr(gate, claim.side):
            masked[factor.path] = np.asarray(masked[factor.path]) * spread(factor, gain)
        for factor in gate.kernels if claim.kernels else ():
            masked[factor.path] = np.asarray(masked[factor.path]) * spread(factor, gain > 0)
    ones = [np.ones_like(scale) for scale in scales]
    expected = np.asarray(subject.run(dtype, subject.leaves, subject.images, scales))
    actual = np.asarray(subject.run(dtype, list(masked.values()), subject.images, ones))
    most, difference = np.abs(expected).max(), np.abs(actual - expected).max()
    return float(difference / most) if most > 0 and np.isfinite(difference) else math.inf


def _random_gains(rng: np.random.Generator, channels: int) -> np.ndarray:
    """In [0, 1): about a third are 0; at least one is not, and among several at least one is."""
    gains = rng.uniform(0.1, 0.9, channels) * (rng.uniform(size=channels) > 0.3)
    gains[rng.permutation(channels)[:2]] = (0.5, 0)[:channels]
    return gains.astype(np.float32)


def _scaled_logits(
    flat: ClosedJaxpr, places: Sequence[tuple[int, int]], dtype: Any, leaves: Any, images: Any, gains: Any
) -> jax.Array:
    scale: dict[int, Any] = {}
    for (value, axis), gain in zip(places, gains, strict=True):
        rank = len(flat.jaxpr.eqns[value].outvars[0].aval.shape)
        factor = gain.astype(dtype).reshape([-1 if a == axis else 1 for a in range(rank)])
        scale[value] = scale[value] * factor if value in scale else factor
    (logits,), _ = evaluate(flat, [*leaves, images], scale=scale, dtype=dtype)
    return logits
