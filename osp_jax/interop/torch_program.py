"""A PyTorch network as a JAX program: the operations that `torch.export` traced, one by one.

The program holds neither the module nor the weights. Programs with the same steps are equal, so that models of one
architecture share compiled programs.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of a program, by number: an input, a constant, or the result of a step."""

    number: int


@dataclasses.dataclass(frozen=True)
class Step:
    """`function(*arguments, **keywords)`, each `Value` stands for its value; a `random` step takes a key first."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    result: int
    random: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """`(variables, images) -> logits`, in steps.

    Attributes:
      images: the number of the images, NCHW.
      inputs: numbers of the variables, by key.
      constants: by number.
      steps: in order.
      logits: the output.
      updates: new values of variables by key, such as running statistics.
    """

    images: int
    inputs: Mapping[str, int]
    constants: Mapping[int, np.ndarray]
    steps: tuple[Step, ...]
    logits: Value
    updates: Mapping[str, Value]
    digest: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", _digest(self))

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.digest == other.digest

    def run(
        self, variables: Mapping[str, jax.Array], images: jax.Array, rng: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(logits, new values of variables by key) for images NHWC."""
        values: dict[int, Any] = {number: variables[key] for key, number in self.inputs.items()}
        values |= self.constants
        values[self.images] = jnp.transpose(images, (0, 3, 1, 2))
        for step in self.steps:
            arguments = filled(step.arguments, values)
            keywords = {name: filled(value, values) for name, value in step.keywords}
            if step.random:
                arguments = (jax.random.fold_in(rng, step.result), *arguments)
            values[step.result] = step.function(*arguments, **keywords)
        return values[self.logits.number], {key: values[value.number] for key, value in self.updates.items()}


def filled(argument: Any, values: Mapping[int, Any]) -> Any:
    """`argument` with each `Value` in it replaced by its value."""
    if isinstance(argument, Value):
        return values[argument.number]
    if isinstance(argument, tuple):
        return tuple(filled(each, values) for each in argument)
    return argument


def numbers_in(argument: Any) -> Iterator[int]:
    """The numbers of the values in an argument."""
    if isinstance(argument, Value):
        yield argument.number
    elif isinstance(argument, tuple):
        for each in argument:
            yield from numbers_in(each)


def needed_steps(steps: list[Step], results: list[int]) -> tuple[tuple[Step, ...], set[int]]:
    """(the steps that `results` depend on, all numbers that they read)."""
    needed, kept = set(results), []
    for step in reversed(steps):
        if step.result in needed:
            kept.append(step)
            needed.update(numbers_in((step.arguments, *(value for _, value in step.keywords))))
    return tuple(reversed(kept)), needed


def _digest(program: Program) -> str:
    steps = [(step.name, step.arguments, step.keywords, step.result) for step in program.steps]
    found = hashlib.sha256(repr((program.images, program.inputs, steps, program.logits, program.updates)).encode())
    for number, constant in program.constants.items():
        found.update(repr((number, constant.shape, constant.dtype)).encode() + constant.tobytes())
    return found.hexdigest()
