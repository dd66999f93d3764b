"""The linear head of a traced network: the last kernel on the way to its logits."""

import math
from typing import NamedTuple

import numpy as np
from jax.extend.core import Var

from osp_jax.program import labels
from osp_jax.program.gate import Head
from osp_jax.program.labels import Index
from osp_jax.program.scaling import Program
from osp_jax.runtime.errors import InputError


class _Last(NamedTuple):
    """The last product, the classes along its output, and the leaf that is added to it."""

    number: int
    classes: Index
    bias: str | None


def find_head(program: Program) -> tuple[int, Head]:
    """The number of the product that computes the logits, and its leaves.

    Raises:
      InputError: the logits are not a product with one leaf plus a bias.
    """
    last = _last_product(program)
    number, kernel = last.number, program.equations[last.number].invars[program.kernels[last.number]]
    columns = [index for atom, index in program.factors_behind(number, last.classes) if atom is kernel]
    path = program.kernel_leaf(number)
    if path is None or not columns:
        raise no_head("its kernel is not a leaf")
    rows = program.kernel_index(number, program.summed_index(number))
    found = [(program.leaves_behind({kernel: index}) or {}).get(path) for index in (rows, columns[0])]
    if any(index is None for index in found):
        raise no_head("its kernel is not one leaf")
    shape, classes = program.leaves[path].aval.shape, program.outputs[0].aval.shape[1]
    into, out = (labels.varying(index) for index in found)
    if len(into) > 1 or len(out) > 1 or not np.array_equal(found[1].ravel(), np.arange(classes)):
        raise no_head("its kernel has more axes than inputs and outputs")
    rest = [axis for axis in range(len(shape)) if axis not in (*into, *out)][::-1]  # of size 1
    output_axis = out[0] if out else rest.pop(0)
    input_axis = into[0] if into else rest[0]
    if math.prod(shape) != shape[input_axis] * shape[output_axis]:
        raise no_head("its kernel covers several positions")
    return number, Head(path, input_axis, output_axis, last.bias)


def no_head(reason: str) -> InputError:
    return InputError(
        f"the network has no linear head ({reason}); `apply` must return the logits of a dense layer or 1x1 "
        "convolution, with no softmax or activation behind it"
    )


def _last_product(program: Program) -> _Last:
    """Walks back from the logits through a bias, operations that keep every entry, and a mean over positions."""
    (atom,), bias, averaged = program.outputs, None, -1
    index = labels.along(2, 1, atom.aval.shape[1])
    while isinstance(atom, Var) and atom in program.made:
        number, result = program.made[atom]
        name = program.equations[number].primitive.name
        if number in program.kernels:
            return _Last(number, index, bias)
        if (same := program.unchanged_operand(number)) is not None:
            atom = same
            continue
        if name in ("add", "add_any") and bias is None:
            bias, atom = _bias(program, number, index)
            continue
        if name in ("div", "mul"):
            averaged = _sum_behind(program, number)
        elif name not in labels.KEEPS_ALL and number != averaged:
            averaged = None
        if averaged is None:
            raise no_head(f"{name} follows the last kernel")
        found = program.operands_behind(number, result, index) or []
        found = [pair for pair in found if program.depends_on_images(pair[0])]
        if len(found) != 1:
            raise no_head(f"{name} follows the last kernel")
        ((atom, index),) = found
    raise no_head("the logits are not the result of a product")


def _bias(program: Program, number: int, index: Index) -> tuple[str, Var]:
    """The leaf that is added to the logits, and the other summand."""
    operands = program.equations[number].invars
    derived = [atom for atom in operands if program.is_derived(atom)]
    others = [atom for atom in operands if program.depends_on_images(atom)]
    if len(derived) != 1 or len(others) != 1:
        raise no_head("the logits are a sum")
    leaves = program.leaves_behind({derived[0]: index}) or {}
    if len(leaves) != 1:
        raise no_head("its bias is not a leaf")
    return next(iter(leaves)), others[0]


def _sum_behind(program: Program, number: int) -> int | None:
    """The number of the sum that is divided by its number of entries; None if there is none."""
    equation = program.equations[number]
    divisors = [program.value(atom) for atom in equation.invars if program.is_constant(atom)]
    atoms = [atom for atom in equation.invars if program.depends_on_images(atom)]
    while len(atoms) == 1 and atoms[0] in program.made:
        made = program.made[atoms[0]][0]
        sums = program.equations[made]
        if program.unchanged_operand(made) is not None:
            atoms = [program.unchanged_operand(made)]
            continue
        if sums.primitive.name == "reduce_sum":
            count = math.prod(sums.invars[0].aval.shape[axis] for axis in sums.params["axes"])
            wanted = count if equation.primitive.name == "div" else 1 / count
            mean = len(divisors) == 1 and divisors[0] is not None and np.allclose(divisors[0], wanted, rtol=1e-3)
            return made if mean else None
        if sums.primitive.name not in labels.KEEPS_ALL:
            return None
        atoms = [atom for atom in sums.invars if program.depends_on_images(atom)]
    return None
