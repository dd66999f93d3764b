"""A program cut in two: what some parameters cannot change, and what follows from them.

Requests to forget mostly change parameters late in a network. Whoever judges or fits many of them computes the first
part once, and only the second again for each.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from osp_jax.trees import leaf_paths


class Halves(NamedTuple):
    """`late(variables, early(variables, inputs))` is the whole program.

    `early` gives a list of arrays, the same for all variables that differ only in the parameters that may change; each
    depends on the inputs, so where these are a batch it has their leading axis.
    """

    early: Callable[[Any, Any], list[jax.Array]]
    late: Callable[[Any, list[jax.Array]], Any]


def split_program(
    function: Callable[[Any, Any], Any], variables: Any, inputs: Any, changing: Collection[str]
) -> Halves:
    """Cuts `function(variables, inputs)` behind the last operation that no changing parameter reaches.

    Args:
      function: traceable; what it calls under `jax.jit` counts as one operation.
      variables: a pytree of arrays or shapes.
      inputs: a pytree of arrays or shapes; the halves take inputs of these shapes only.
      changing: leaves of `variables` by path, such as 'params/head/kernel'; others are ignored.
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
        # What follows from variables alone is no value to keep, and what is only reshaped is kept as it was.
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
    """Those equations that the outputs depend on, in their order, and all that these and the outputs read."""
    wanted, kept = dict.fromkeys(atom for atom in outputs if not isinstance(atom, Literal)), []
    for equation in reversed(equations):
        if wanted.keys() & set(equation.outvars):
            kept.append(equation)
            wanted |= dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal))
    return kept[::-1], list(wanted)
