"""The stages of a network, found in its program: values that all data from images to logits passes through.

A residual network has one between its blocks and none within them; a plain network has one behind each layer. The stage
is the last of these values before the next product: behind the activation, before pooling. This finds the blocks of any
network without its source. The features of a stage are the mean and the maximum of each channel.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from osp_jax.program.flat import evaluate, flatten, signature
from osp_jax.program.gates import arranged, traced
from osp_jax.program.scaling import ELEMENTWISE, Program
from osp_jax.runtime.errors import InputError


class Stage(NamedTuple):
    """A value of a flat program: its equation number, its axes of channels and images, its numbers of channels and of
    positions; 1 if channels are its only axis."""

    value: int
    axis: int
    batch_axis: int
    channels: int
    positions: int


class Stages(NamedTuple):
    """The stages of a network from input to output, and a digest of the program that their numbers refer to."""

    found: tuple[Stage, ...]
    program: str

    def last(self, count: int) -> "Stages":
        """Returns the last `count` stages. Raises `InputError` if there are fewer."""
        if count > len(self.found):
            raise InputError(f"head.stages is {count} and the network has {len(self.found)}; give at most as many")
        return self._replace(found=self.found[len(self.found) - count :])


def find_stages(apply: Callable[[Any, jax.Array], jax.Array], variables: Any, image_shape: tuple[int, ...]) -> Stages:
    """The stages of `apply(variables, images)`, for images `(h, w, c)`.

    Raises:
      InputError: the network has no product with a parameter, or its program depends on the number of images.
    """
    program = traced(apply, variables, tuple(image_shape), jnp.float32)
    if not program.kernels:
        raise InputError("the network multiplies its images by no parameter, so it has no stages")
    found, run = [], []
    for number, products in _cuts(program, max(program.kernels)):  # the values behind the last product are the logits
        if products and run:
            found.append(_stage(program, run))
            run = []
        if program.equations[number].outvars[0] in program.learned:
            run.append(number)
    found.extend([_stage(program, run)] if run else [])
    return Stages(tuple(found), signature(program.closed))


def stage_features(
    apply: Callable[[Any, jax.Array], jax.Array], stages: Stages, variables: Any, images: jax.Array
) -> list[jax.Array]:
    """The spatial means and maxima of the channels of each stage, float32 `(batch, 2 channels)`; jittable.

    A stage without positions gives its channels, `(batch, channels)`.

    Raises:
      InputError: the program differs from the one in which the stages were found.
    """
    batch = len(images)
    images = images if batch > 1 else jnp.concatenate([images, images])  # the program for one image may differ
    program = flatten(apply, variables, images)
    if signature(program) != stages.program:
        raise InputError("the network runs other operations on these images than on those its stages were found with")
    keep = [stage.value for stage in stages.found]
    _, kept = evaluate(program, [*jax.tree.leaves(variables), images], keep=keep)
    features = []
    for stage in stages.found:
        value = arranged(kept[stage.value], stage.axis, stage.batch_axis, images)[:batch].astype(jnp.float32)
        flat = value.reshape(batch, -1, value.shape[-1])
        pooled = [flat[:, 0]] if stage.positions == 1 else [flat.mean(1), flat.max(1)]
        features.append(jnp.concatenate(pooled, axis=-1))
    return features


def feature_widths(stages: Stages) -> list[int]:
    """The number of features of each stage, as `stage_features` returns them."""
    return [stage.channels * (1 if stage.positions == 1 else 2) for stage in stages.found]


def _cuts(program: Program, end: int) -> Iterator[tuple[int, int]]:
    """(number of an equation whose result alone carries the images, products since the last one), before `end`."""
    last = {
        atom: number
        for number, equation in enumerate(program.equations)
        for atom in equation.invars
        if isinstance(atom, Var) and atom in program.seen
    }
    open_values, products = {program.images}, 0
    for number, equation in enumerate(program.equations[:end]):
        products += number in program.kernels
        open_values |= {var for var in equation.outvars if last.get(var, -1) > number}
        open_values -= {var for var in equation.invars if isinstance(var, Var) and last.get(var) == number}
        if open_values == {equation.outvars[0]}:
            yield number, products
            products = 0


def _stage(program: Program, run: Sequence[int]) -> Stage:
    """Among values with no product between them: the last with positions; without any, the last."""
    found = [_described(program, number) for number in run]
    return next((stage for stage in reversed(found) if stage.positions > 1), found[-1])


def _described(program: Program, number: int) -> Stage:
    var = program.equations[number].outvars[0]
    shape, batch_axis = var.aval.shape, program.batch_axes.get(var, 0)
    axis = _read_axis(program, var)
    axis = _written_axis(program, var) if axis is None else axis
    axis = len(shape) - 1 if axis is None else axis
    images = 2  # in the traced program
    positions = max(1, var.aval.size // (images * shape[axis]))
    return Stage(number, axis, batch_axis, shape[axis], positions)


def _read_axis(program: Program, start: Var) -> int | None:
    """The channel axis by the first product that reads a value, through elementwise operations; None without one."""
    waiting, seen = [start], {start}
    while waiting:
        var = waiting.pop(0)
        for number in program.uses.get(var, ()):
            if number in program.kernels and program.read_operand(number) is var:
                convolution, dot = program.convolution(number), program.dot(number)
                axes = [convolution.inputs[1]] if convolution else dot.contract[1 - program.kernels[number]]
                if len(axes) == 1:
                    return axes[0]
            waiting.extend(_alike(program, number, start, seen))
    return None


def _written_axis(program: Program, start: Var) -> int | None:
    """The channel axis by the product that wrote the value last."""
    waiting, seen = [start], {start}
    while waiting:
        var = waiting.pop(0)
        if var not in program.made:
            continue
        number = program.made[var][0]
        if number in program.kernels:
            convolution, dot = program.convolution(number), program.dot(number)
            axes = [convolution.outputs[1]] if convolution else [o for _, o in dot.out_axes(program.kernels[number])]
            if len(axes) == 1:
                return axes[0]
        elif program.equations[number].primitive.name in ELEMENTWISE:
            operands = program.equations[number].invars
            same = [a for a in operands if isinstance(a, Var) and a.aval.shape == start.aval.shape and a not in seen]
            seen |= set(same)
            waiting.extend(same)
    return None


def _alike(program: Program, number: int, start: Var, seen: set[Var]) -> list[Var]:
    """The unseen results of an elementwise equation that have the shape of `start`."""
    equation = program.equations[number]
    if equation.primitive.name not in ELEMENTWISE:
        return []
    fresh = [var for var in equation.outvars if var.aval.shape == start.aval.shape and var not in seen]
    seen |= set(fresh)
    return fresh
