"""A traced function as one flat list of equations, and an interpreter for it.

Calls (`jax.jit`, `jax.checkpoint`, `custom_jvp`, `custom_vjp`) are inlined, so that every operation of a network is in
one list, in program order. The number of an equation identifies a value: its first output. It is the same for every
batch size if the function runs the same operations for every batch size.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from osp_jax.networks.cpu.depthwise import plain_convolutions, with_shifts

_CONTROL = frozenset("scan while cond".split())
_CALLS = frozenset(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr "
    "composite".split()
)
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def flatten(function: Callable[..., Any], *args: Any) -> ClosedJaxpr:
    """The program of `function(*args)` as one flat closed jaxpr; its arguments are the leaves of `args`.

    Operations that no output depends on are left out. `scan`, `while` and `cond` stay single equations, as does a
    convolution with custom derivatives whose implementation contains one of them. Calls lose their custom derivatives.

    Args:
      args: trees of arrays or shapes.
    """
    with plain_convolutions():
        closed = jax.make_jaxpr(function)(*args)
    equations: list[JaxprEqn] = []
    constants: dict[Var, Any] = {}
    invars = [_renamed(var) for var in closed.jaxpr.invars]
    outvars = _inline(closed.jaxpr, closed.consts, invars, equations, constants)
    needed = _needed(equations, outvars)
    read = {atom for equation in needed for atom in equation.invars if isinstance(atom, Var)} | {
        atom for atom in outvars if isinstance(atom, Var)
    }
    constants = {var: value for var, value in constants.items() if var in read}
    jaxpr = closed.jaxpr.replace(
        constvars=list(constants), invars=invars, outvars=outvars, eqns=needed, debug_info=None, effects=frozenset()
    )
    return ClosedJaxpr(jaxpr, list(constants.values()))


def signature(program: ClosedJaxpr) -> str:
    """A digest of the operations of a flat program in order; the same for every batch size."""
    names = " ".join(equation.primitive.name for equation in program.jaxpr.eqns)
    return hashlib.sha256(names.encode()).hexdigest()


def evaluate(
    program: ClosedJaxpr,
    values: Sequence[Any],
    *,
    keep: Collection[int | tuple[int, int]] = (),
    scale: Mapping[int, Any] | None = None,
    dtype: Any = None,
) -> tuple[list[Any], dict[int, Any]]:
    """Runs a flat program; traceable.

    Args:
      values: one per argument of the program.
      keep: numbers of equations whose first output is also returned, and (number of an equation, position) for one of
        its operands.
      scale: by equation number, an array to multiply its first output by.
      dtype: computes in this floating-point type, and products at the highest precision, overriding the program.

    Returns:
      the outputs; the kept values by number or (number, position). First outputs are returned after `scale`.
    """
    known = dict(zip(program.jaxpr.invars, values, strict=True))
    known |= zip(program.jaxpr.constvars, program.consts, strict=True)
    last = _last_uses(program)
    scale, kept = scale or {}, {}
    operands_kept = [key for key in keep if isinstance(key, tuple)]
    executed = with_shifts(program) if dtype is None else program
    for number, equation in enumerate(executed.jaxpr.eqns):
        operands = [
            _cast(atom.val if isinstance(atom, Literal) else known[atom], atom, dtype) for atom in equation.invars
        ]
        kept |= {(n, position): operands[position] for n, position in operands_kept if n == number}
        results = _bind(equation, operands, dtype)
        if number in scale:
            results[0] = results[0] * scale[number].astype(results[0].dtype)
        if number in keep:
            kept[number] = results[0]
        known |= zip(equation.outvars, results, strict=True)
        for var in last.get(number, ()):
            del known[var]
    outputs = [atom.val if isinstance(atom, Literal) else known[atom] for atom in program.jaxpr.outvars]
    return outputs, kept


def is_floating(dtype: Any) -> bool:
    """Whether a dtype is a floating-point type that a gain can multiply."""
    return jnp.issubdtype(dtype, jnp.floating)


def _renamed(var: Var) -> Var:
    return Var(var.aval)


def _inline(
    jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any], out: list[JaxprEqn], constants: dict[Var, Any]
) -> list[Any]:
    known: dict[Var, Any] = dict(zip(jaxpr.invars, operands, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        known[var] = value if isinstance(value, Var) else _renamed(var)
        if not isinstance(value, Var):
            constants[known[var]] = value
    for equation in jaxpr.eqns:
        read = [atom if isinstance(atom, Literal) else known[atom] for atom in equation.invars]
        inner = _called(equation)
        if inner is not None:
            results = _inline(inner[0], inner[1], read, out, constants)
        else:
            results = [_renamed(var) for var in equation.outvars]
            out.append(equation.replace(invars=read, outvars=results))
        known |= zip(equation.outvars, results, strict=True)
    return [atom if isinstance(atom, Literal) else known[atom] for atom in jaxpr.outvars]


def _called(equation: JaxprEqn) -> tuple[Any, Sequence[Any]] | None:
    """(jaxpr, consts) of an equation that only calls another program once, or stands for several simple equations."""
    if equation.primitive.name == "split":  # so that each part is the first output of an equation
        parts = jax.make_jaxpr(partial(_parts, **equation.params))(equation.invars[0].aval)
        return parts.jaxpr, parts.consts
    if equation.primitive.name not in _CALLS or is_own_convolution(equation):
        return None
    inner = next(equation.params[key] for key in _INNER if key in equation.params)
    return (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())


def _parts(operand: Any, sizes: Sequence[int], axis: int) -> list[Any]:
    ends = itertools.accumulate(sizes)
    return [jax.lax.slice_in_dim(operand, end - size, end, axis=axis) for end, size in zip(ends, sizes, strict=True)]


def is_own_convolution(equation: JaxprEqn) -> bool:
    """Whether an equation is a function with custom derivatives and the shape of a convolution, b h w i and h w i o to
    b h w o with stride 1, that contains a loop, so that it cannot be inlined."""
    if equation.primitive.name != "custom_vjp_call" or len(equation.invars) != 2 or len(equation.outvars) != 1:
        return False
    shapes = [atom.aval.shape for atom in (*equation.invars, *equation.outvars)]
    if any(len(shape) != 4 for shape in shapes):
        return False
    inputs, kernel, outputs = shapes
    fits = inputs[:3] == outputs[:3] and inputs[3] == kernel[2] and kernel[3] == outputs[3]
    return fits and any(name in _CONTROL for name in _primitives(equation.params["call_jaxpr"].jaxpr))


def _primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for key in _INNER:
            inner = equation.params.get(key)
            if inner is not None:
                yield from _primitives(getattr(inner, "jaxpr", inner))


def _needed(equations: list[JaxprEqn], outputs: Sequence[Any]) -> list[JaxprEqn]:
    """The equations that the outputs depend on, in order."""
    wanted, needed = {atom for atom in outputs if isinstance(atom, Var)}, []
    for equation in reversed(equations):
        if not wanted.isdisjoint(equation.outvars):
            needed.append(equation)
            wanted |= {atom for atom in equation.invars if isinstance(atom, Var)}
    return needed[::-1]


def _last_uses(program: ClosedJaxpr) -> dict[int, list[Var]]:
    last: dict[Var, int] = {}
    for number, equation in enumerate(program.jaxpr.eqns):
        last |= {atom: number for atom in (*equation.invars, *equation.outvars) if isinstance(atom, Var)}
    for atom in program.jaxpr.outvars:
        last.pop(atom, None) if isinstance(atom, Var) else None
    uses: dict[int, list[Var]] = {}
    for var, number in last.items():
        uses.setdefault(number, []).append(var)
    return uses


def _cast(value: Any, atom: Any, dtype: Any) -> Any:
    if dtype is None:
        return value
    if not is_floating(atom.aval.dtype):
        return value if isinstance(value, jax.Array) else jnp.asarray(value, atom.aval.dtype)
    return jnp.asarray(value).astype(dtype)


def _bind(equation: JaxprEqn, operands: list[Any], dtype: Any) -> list[Any]:
    params = equation.params
    if dtype is not None:
        if equation.primitive.name == "reduce_precision":
            return operands
        if any(key in params for key in (*_INNER, "branches", "cond_jaxpr")):  # contains typed inner programs
            operands = [value.astype(atom.aval.dtype) for value, atom in zip(operands, equation.invars, strict=True)]
        else:
            params = {key: _in_dtype(key, value, equation, dtype) for key, value in params.items()}
    results = list(bind(equation, operands, params))
    if dtype is None:
        return results
    return [value.astype(dtype) if is_floating(value.dtype) else value for value in results]


def bind(equation: JaxprEqn, operands: Sequence[Any], params: Any) -> Sequence[Any]:
    """The results of one equation."""
    if any(key in params for key in _INNER) or equation.primitive.name in _CONTROL:
        pairs = zip(equation.invars, operands, strict=True)
        given = {atom: value for atom, value in pairs if isinstance(atom, Var)}
        alone = Jaxpr((), list(given), equation.outvars, [equation])
        return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values())
    with equation.ctx.manager:
        results = equation.primitive.bind(*operands, **params)
    return results if equation.primitive.multiple_results else [results]


def _in_dtype(key: str, value: Any, equation: JaxprEqn, dtype: Any) -> Any:
    """A parameter of an equation, for computation in `dtype`."""
    if key in ("new_dtype", "preferred_element_type", "dtype"):
        floating = value is not None and is_floating(value)
        return jnp.dtype(dtype) if floating else value
    if key == "precision" and equation.primitive.name in ("dot_general", "conv_general_dilated"):
        return (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    return value
