"""Finds the table in which a network looks up its token ids, from its traced program."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from osp_jax.program.flat import flatten
from osp_jax.runtime.errors import InputError
from osp_jax.trees import leaf_paths


def find_embedding(apply: Callable[[Any, jax.Array], jax.Array], variables: Any, length: int) -> str:
    """The path of the leaf `(vocabulary, width)` whose rows a network of texts gathers by token id.

    Args:
      variables: a pytree of arrays or shapes.
      length: tokens per text.

    Raises:
      InputError: the program gathers rows of no leaf, or of several, by values computed from the ids.
    """
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda variables: variables, variables))
    found = _gathered(apply, tuple(leaves), structure, length)
    if len(found) != 1:
        what = f"several tables ({', '.join(found)})" if found else "no table"
        raise InputError(f"the network looks up token ids in {what}; give the path of one as the option embedding")
    return found[0]


@lru_cache(maxsize=32)
def _gathered(
    apply: Callable, leaves: tuple[jax.ShapeDtypeStruct, ...], structure: Any, length: int
) -> tuple[str, ...]:
    variables = jax.tree.unflatten(structure, leaves)
    program = flatten(apply, variables, jax.ShapeDtypeStruct((2, length), jnp.float32)).jaxpr
    leaf_of: dict[Var, str] = dict(zip(program.invars[:-1], leaf_paths(variables), strict=True))
    of_ids, found = {program.invars[-1]}, {}
    for equation in program.eqns:
        read = [atom for atom in equation.invars if isinstance(atom, Var)]
        seen = bool(of_ids & set(read))
        if equation.primitive.name == "gather" and seen and equation.invars[0] in leaf_of:
            path = leaf_of[equation.invars[0]]
            if equation.invars[0].aval.ndim == 2:
                found[path] = None
        if seen:
            of_ids |= set(equation.outvars)
        elif len(read) == 1 and read[0] in leaf_of and equation.primitive.name in _CASTS:
            leaf_of[equation.outvars[0]] = leaf_of[read[0]]
    return tuple(found)


_CASTS = frozenset(["convert_element_type", "copy", "optimization_barrier"])
