"""Splits a program in two: the part that some parameters cannot change, and the rest.

Requests to forget mostly change parameters late in a network. Code that evaluates or fits many requests computes the
first part once, and only the second for each.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from osp_jax.trees import leaf_paths


class Halves(NamedTuple):
    """`late(variables, early(variables, inputs))` is the whole program.

    `early` returns a list of arrays that is the same for all variables that differ only in the changing parameters;
    each depends on the inputs, so for a batch of inputs it has their leading axis.
    """

    early: Callable[[Any, Any], list[jax.Array]]
    late: Callable[[Any, list[jax.Array]], Any]


def split_program(
    function: Callable[[Any, Any], Any], variables: Any, inputs: Any, changing: Collection[str]
) -> Halves:
    """Splits `function(variables, inputs)` behind the last operation that no changing parameter reaches.

    Args:
      function: traceable; a call under `jax.jit` counts as one operation.
      variables: a pytree of arrays or shapes.
      inputs: a pytree of arrays or shapes; the halves accept only inputs of these shapes.
      changing: leaves of `variables` by path, such as 'params/head/kernel'; unknown paths are ignored.
    """
    program, outputs = jax.make_jaxpr(function, return_shape=True)(variables, inputs)
    jaxpr, count = program.jaxpr, len(jax.tree.leaves(variables))
    paths = leaf_paths(variables)  # in the order of the program's arguments
    reached = {var for var, path in zip(jaxpr.invars[:count], paths, strict=True) if path in changing}
    fed, early, late = set(jaxpr.invars[count:]), [], []
    for equation in jaxpr.eqns:
        read = {atom for atom in equation.invars if not isinstance(atom, Literal)}
        reached |= set(equation.outvars) if read & reached else set()
        fed |= set(equation.outvars) if read & fed else set()
        if not read & reached:
            early.append(equation)
        # Values that depend on variables alone are not kept; a value that is only reshaped is kept in its old shape.
        if read & reached or not read & fed or equation.primitive.name == "reshape":
            late.append(equation)
    late, read = _needed(late, jaxpr.outvars)
    made = {var for equation in late for var in equation.outvars}
    between = [atom for atom in read if atom in fed - made]

    def run(equations: list[Any], arguments: list[Any], results: list[Any], values: list[Any]) -> list[jax.Array]:
        part = jaxpr.replace(eqns=equations, invars=arguments, outvars=results, debug_info=None)
        return jaxpr_as_fun(ClosedJaxpr(part, program.consts))(*values)

    def first(variables: Any, inputs: Any) -> list[jax.Array]:
        return run(early, jaxpr.invars, between, [*jax.tree.leaves(variables), *jax.tree.leaves(inputs)])

    def second(variables: Any, values: list[jax.Array]) -> Any:
        arguments = [*jaxpr.invars[:count], *between]
        found = run(late, arguments, jaxpr.outvars, [*jax.tree.leaves(variables), *values])
        return jax.tree.unflatten(jax.tree.structure(outputs), found)

    return Halves(first, second)


def _needed(equations: list[Any], outputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """The equations that the outputs depend on, in order, and all values that these and the outputs read."""
    wanted, kept = dict.fromkeys(atom for atom in outputs if not isinstance(atom, Literal)), []
    for equation in reversed(equations):
        if wanted.keys() & set(equation.outvars):
            kept.append(equation)
            wanted |= dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))
    return kept[::-1], list(wanted)
