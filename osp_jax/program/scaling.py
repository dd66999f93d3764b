"""Propagation of channel gains through a flat program.

Forwards: if some values are scaled, channel by channel, which other values are scaled in the same way? Backwards: which
parameter leaves must be scaled to scale a value? Both depend on shapes and operations only. There are rules for
operations that move data, for positively homogeneous operations, f(g x) = g f(x) for g >= 0, and for products; all
others block. The idea follows dependency graphs for pruning (Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900), for
gains instead of removals.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var

from osp_jax.program import labels
from osp_jax.program.flat import bind, is_floating, is_own_convolution
from osp_jax.program.labels import ANY, NONE, Index

_SUMS = frozenset("add sub add_any max min".split())  # scaled if all operands are
_UNARY = frozenset("neg abs".split())
_COMPARISONS = frozenset("gt ge lt le eq ne".split())
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min".split())
_CUMULATIVE = frozenset("cumsum cummax cummin".split())
_WINDOWS = frozenset("reduce_window_sum reduce_window_max reduce_window_min".split())
_PRODUCTS = frozenset("dot_general conv_general_dilated".split())
# By operation: the neutral constant, and its operand position.
_NEUTRAL = {"mul": (1, (1, 0)), "div": (1, (1,)), "add": (0, (1, 0)), "sub": (0, (1,))}
ELEMENTWISE = (
    _SUMS
    | _UNARY
    | _COMPARISONS
    | frozenset(
        "acos acosh and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma div erf erf_inv erfc exp exp2 "
        "expm1 floor integer_pow is_finite lgamma log log1p logistic mul nextafter not or pow rem round rsqrt select_n "
        "sign sin sinh sqrt square tan tanh xor".split()
    )
)


class Blocked(Exception):  # noqa: N818 (not an error: a negative result)
    """Raised for an operation that gains do not pass."""


class Label(NamedTuple):
    """The effect of gains on a value: they scale it, or they may change it arbitrarily where they are 0 and not at all
    elsewhere."""

    index: Index
    scaled: bool = True


class Dot(NamedTuple):
    """Axes of a product: of both operands, in pairs for shared ones, and of the result."""

    contract: tuple[Sequence[int], Sequence[int]]
    batch: tuple[Sequence[int], Sequence[int]]
    free: tuple[Sequence[int], Sequence[int]]

    def out_axes(self, side: int) -> list[tuple[int, int]]:
        """Pairs (axis of the operand, axis of the result)."""
        start = len(self.batch[0]) + (len(self.free[0]) if side else 0)
        batch = [(axis, number) for number, axis in enumerate(self.batch[side])]
        return [*batch, *[(axis, start + number) for number, axis in enumerate(self.free[side])]]


class Convolution(NamedTuple):
    """(batch, feature, ...), (out, in, ...) and (batch, feature, ...) axes of input, kernel and output; groups."""

    inputs: tuple[int, ...]
    kernel: tuple[int, ...]
    outputs: tuple[int, ...]
    groups: int


class Program:
    """A flat program of `apply(variables, images)`, with structure derived from it."""

    def __init__(self, closed: ClosedJaxpr, paths: Sequence[str], other: ClosedJaxpr | None = None):
        """`paths`: leaves of the variables, which are the first arguments; the last argument is the images.

        `other` is the same program for another number of images, which identifies the axes of images.
        """
        jaxpr = closed.jaxpr
        self.closed, self.equations = closed, jaxpr.eqns
        self.paths: dict[Var, str] = dict(zip(jaxpr.invars, paths, strict=False))
        self.leaves = {path: var for var, path in self.paths.items()}
        self.images = jaxpr.invars[len(paths)]
        self.outputs = jaxpr.outvars
        self.made: dict[Var, tuple[int, int]] = {}
        self.uses: dict[Var, list[int]] = {}
        self.constants: dict[Var, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        self.learned: set[Var] = set(self.paths)  # depends on the variables
        self.seen: set[Var] = {self.images}  # depends on the images
        for number, equation in enumerate(self.equations):
            read = [atom for atom in equation.invars if isinstance(atom, Var)]
            self.made |= {var: (number, result) for result, var in enumerate(equation.outvars)}
            for var in dict.fromkeys(read):
                self.uses.setdefault(var, []).append(number)
            for marked in (self.learned, self.seen):
                if not marked.isdisjoint(read):
                    marked |= set(equation.outvars)
        self.batch_axes = _batch_axes(closed, other) if other else {}
        self._chosen: dict[Any, int | None] = {}
        self._values: dict[Var, np.ndarray | None] = {}

    def is_derived(self, atom: Any) -> bool:
        """Whether a value depends on the variables alone."""
        return isinstance(atom, Var) and atom in self.learned and atom not in self.seen

    def depends_on_images(self, atom: Any) -> bool:
        """Whether a value depends on the images."""
        return isinstance(atom, Var) and atom in self.seen

    def is_constant(self, atom: Any) -> bool:
        return isinstance(atom, Literal) or (atom not in self.learned and atom not in self.seen)

    def value(self, atom: Any) -> np.ndarray | None:
        """The value of a constant; None for anything else, and for constants that are too large."""
        if isinstance(atom, Literal):
            return np.asarray(atom.val)
        if not self.is_constant(atom) or atom.aval.size > 2**24:
            return None
        if atom in self.constants:
            return np.asarray(self.constants[atom])
        if atom not in self._values:
            number, result = self.made[atom]
            equation = self.equations[number]
            read = [self.value(operand) for operand in equation.invars]
            self._values[atom] = None
            if all(value is not None for value in read):
                with jax.ensure_compile_time_eval():
                    self._values[atom] = np.asarray(bind(equation, read, equation.params)[result])
        return self._values[atom]

    def unchanged_operand(self, number: int) -> Any:
        """The operand that an equation returns unchanged: x in x * 1, x / 1, x + 0 and x - 0; None for others."""
        equation = self.equations[number]
        neutral = _NEUTRAL.get(equation.primitive.name)
        if neutral is None:
            return None
        value, sides = neutral
        for side in sides:
            other, kept = equation.invars[side], equation.invars[1 - side]
            same = kept.aval.shape == equation.outvars[0].aval.shape and is_floating(kept.aval.dtype)
            if same and self.is_constant(other) and (found := self.value(other)) is not None and np.all(found == value):
                return kept
        return None

    def is_zero(self, atom: Any) -> bool:
        value = self.value(atom) if self.is_constant(atom) and is_floating(atom.aval.dtype) else None
        return value is not None and not np.any(value)

    @cached_property
    def kernels(self) -> dict[int, int]:
        """By number of each product or convolution of the images with a value that depends on the variables alone: the
        position of that operand."""
        found = {}
        for number, equation in enumerate(self.equations):
            if self.is_product(number):
                sides = [side for side in (1, 0) if self.is_derived(equation.invars[side])]
                if sides and self.depends_on_images(equation.invars[1 - sides[0]]):
                    found[number] = sides[0]
        return found

    def kernel_leaf(self, number: int) -> str | None:
        """Path of the leaf that is the kernel of a product, behind operations that only move data."""
        return self.paths.get(self.moved_from(self.equations[number].invars[self.kernels[number]]))

    def moved_from(self, atom: Any) -> Any:
        """The origin of a value, behind operations that only move data."""
        while isinstance(atom, Var) and atom in self.made:
            number, _ = self.made[atom]
            equation = self.equations[number]
            same = self.unchanged_operand(number)
            if same is None and not labels.moves(equation.primitive.name):
                break
            atom = equation.invars[0] if same is None else same
        return atom

    def is_product(self, number: int) -> bool:
        equation = self.equations[number]
        return equation.primitive.name in _PRODUCTS or is_own_convolution(equation)

    def dot(self, number: int) -> Dot | None:
        equation = self.equations[number]
        if equation.primitive.name != "dot_general":
            return None
        contract, batch = equation.params["dimension_numbers"]
        ranks = [len(atom.aval.shape) for atom in equation.invars]
        free = tuple(
            tuple(axis for axis in range(ranks[side]) if axis not in (*contract[side], *batch[side])) for side in (0, 1)
        )
        return Dot(contract, batch, free)

    def convolution(self, number: int) -> Convolution | None:
        equation = self.equations[number]
        if is_own_convolution(equation):
            return Convolution((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2), 1)
        if equation.primitive.name != "conv_general_dilated" or equation.params["batch_group_count"] != 1:
            return None
        axes = equation.params["dimension_numbers"]
        return Convolution(axes.lhs_spec, axes.rhs_spec, axes.out_spec, equation.params["feature_group_count"])

    def summed_index(self, number: int) -> Index | None:
        """An index array for a kernel's input that numbers the entries it sums over, except positions."""
        operand = self.read_operand(number)
        shape, dot, convolution = operand.aval.shape, self.dot(number), self.convolution(number)
        if convolution:
            return labels.along(len(shape), convolution.inputs[1], shape[convolution.inputs[1]])
        axes = dot.contract[1 - self.kernels[number]] if dot else ()
        sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        return np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes) if dot else None

    def read_operand(self, number: int) -> Any:
        """The input of a kernel."""
        return self.equations[number].invars[1 - self.kernels[number]]

    def kernel_index(self, number: int, index: Index) -> Index:
        """The gain that each entry of a kernel must absorb if its product or convolution reads a scaled value.

        Raises:
          Blocked: the gains differ between positions.
        """
        equation, side = self.equations[number], self.kernels[number]
        kernel = equation.invars[side].aval.shape
        dot, convolution = self.dot(number), self.convolution(number)
        if dot:
            if any(index.shape[axis] > 1 for axis in dot.free[1 - side]):
                raise Blocked(equation.primitive.name)
            pairs = [
                *zip(dot.contract[1 - side], dot.contract[side], strict=True),
                *zip(dot.batch[1 - side], dot.batch[side], strict=True),
            ]
            return _placed(index, pairs, len(kernel))
        if convolution is None or side == 0 or labels.varying(index) not in ([], [convolution.inputs[1]]):
            raise Blocked(equation.primitive.name)
        inputs = _whole(index, convolution.inputs[1], equation.invars[0].aval.shape)
        out, into = convolution.kernel[:2]
        by_group = inputs.reshape(convolution.groups, kernel[into])
        rows = np.repeat(by_group, kernel[out] // convolution.groups, axis=0)  # out, in
        return _on_axes(rows, (out, into), len(kernel))

    # Forwards

    def push(
        self,
        starts: Mapping[Var, Label],
        *,
        target: tuple[int, Index] | None = None,
        reads: Mapping[int, Index] | None = None,
        absorb: bool = False,
    ) -> dict[int, Index]:
        """Propagates scaled values to the end of the program.

        Args:
          starts: labels of the first values.
          target: a value, by number of its equation, and the index array it must get; propagation stops there.
          reads: products and convolutions, and the index arrays that their kernels must get; propagation stops there.
          absorb: whether to also stop at products and convolutions whose kernel can absorb the gains.

        Returns:
          with `absorb`, by number of the product or convolution, the index array for its kernel.

        Raises:
          Blocked: gains reach the output, a value other than the target or the reads, or an operation without a rule.
        """
        known, absorbed, met, waiting = dict(starts), {}, set(), set(reads or {})
        for number, equation in enumerate(self.equations):
            found = [known.get(atom) if isinstance(atom, Var) else None for atom in equation.invars]
            if all(label is None for label in found):
                continue
            if reads and number in reads:
                label = found[self.kernels[number]]
                other = found[1 - self.kernels[number]]
                if (
                    label is None
                    or other is not None
                    or not label.scaled
                    or labels.unified(label.index, reads[number]) is None
                ):
                    raise Blocked(equation.primitive.name)
                waiting.discard(number)
                continue
            if absorb and number in self.kernels and found[self.kernels[number]] is None:
                label = found[1 - self.kernels[number]]
                if label.scaled and (index := self._absorbed(number, label)) is not None:
                    absorbed[number] = index
                    continue
            results = self.step(number, found)
            if target and number == target[0]:
                label = results[0]
                if label is None or not label.scaled or labels.unified(label.index, target[1]) is None:
                    raise Blocked(equation.primitive.name)
                met.add(number)
                results[0] = None
            for var, label in zip(equation.outvars, results, strict=True):
                if label is not None:
                    known[var] = label
        if waiting or (target and not met) or any(isinstance(atom, Var) and atom in known for atom in self.outputs):
            raise Blocked("the output")
        return absorbed

    def _absorbed(self, number: int, label: Label) -> Index | None:
        try:
            return self.kernel_index(number, label.index)
        except Blocked:
            return None

    def step(self, number: int, found: Sequence[Label | None]) -> list[Label | None]:
        """The labels of an equation's results, from those of its operands.

        Raises:
          Blocked: gains do not pass.
        """
        equation = self.equations[number]
        name, params = equation.primitive.name, equation.params
        if labels.moves(name):
            results = self._moved(equation, found)
        elif name in ELEMENTWISE:
            results = [self._elementwise(equation, found)]
        elif name in _REDUCTIONS:
            results = [_without_axes(found[0], params["axes"], name)]
        elif name in _CUMULATIVE:
            results = [_without_axes(found[0], (params["axis"],), name, keep=True)]
        elif name in _WINDOWS:
            results = [_without_axes(found[0], _windowed_axes(params), name, keep=True)]
        elif self.is_product(number):
            results = [self._product(number, found)]
        else:
            raise Blocked(name)
        return [label if label is not None and not labels.is_nothing(label.index) else None for label in results]

    def _moved(self, equation: Any, found: Sequence[Label | None]) -> list[Label | None]:
        name = equation.primitive.name
        kinds = {label.scaled for label in found if label is not None}
        if len(kinds) > 1:
            raise Blocked(name)
        scaled = kinds.pop()
        if name == "convert_element_type" and scaled and not is_floating(equation.outvars[0].aval.dtype):
            raise Blocked(name)
        places = name in ("gather", "dynamic_slice")
        indices: list[Any] = []
        for position, (atom, label) in enumerate(zip(equation.invars, found, strict=True)):
            if places and position:
                if label is not None or (value := self.value(atom)) is None:
                    raise Blocked(name)
                indices.append(value)
            else:
                indices.append(self._index(atom, label, len(atom.aval.shape)))
        shapes = [atom.aval.shape for atom in equation.invars]
        return [Label(index, scaled) for index in labels.forward(name, equation.params, shapes, indices)]

    def _index(self, atom: Any, label: Label | None, rank: int, name: str = "") -> Index:
        if label is None:
            return np.full((1,) * rank, ANY if self._is_free(atom, name) else NONE, np.int32)
        return label.index.reshape((1,) * rank) if label.index.ndim < rank else label.index

    def _elementwise(self, equation: Any, found: Sequence[Label | None]) -> Label | None:
        name, rank = equation.primitive.name, len(equation.outvars[0].aval.shape)
        scaled = [label.scaled for label in found if label is not None]
        given = [
            Label(self._index(atom, label, rank), label.scaled) if label else None
            for atom, label in zip(equation.invars, found, strict=True)
        ]
        plain = [self._index(atom, label, rank, name) for atom, label in zip(equation.invars, found, strict=True)]
        if name == "mul":
            return _multiplied(given[0], given[1])
        if not any(scaled):
            return Label(_united([label.index for label in given if label], name), scaled=False)
        if name in _UNARY or (name == "div" and given[1] is None):
            return given[0]
        if name in _SUMS and all(scaled):
            return Label(_agreed(plain, name))
        if name == "select_n" and all(label is None or label.scaled for label in given[1:]):
            return Label(_agreed(plain[1:] if given[0] is None else [*plain[1:], given[0].index], name))
        if name == "sign" or (name in _COMPARISONS and all(scaled)):
            return Label(_agreed(plain, name), scaled=False)
        raise Blocked(name)

    def _product(self, number: int, found: Sequence[Label | None]) -> Label | None:
        name = self.equations[number].primitive.name
        dot, convolution = self.dot(number), self.convolution(number)
        rank = len(self.equations[number].outvars[0].aval.shape)
        sides: list[Label | None] = []
        for side, label in enumerate(found):
            if label is None:
                sides.append(None)
            elif dot:
                if any(label.index.shape[axis] > 1 for axis in dot.contract[side]):
                    raise Blocked(name)
                sides.append(Label(_placed(label.index, dot.out_axes(side), rank), label.scaled))
            else:
                if convolution is None:
                    raise Blocked(name)
                shapes = [atom.aval.shape for atom in self.equations[number].invars]
                sides.append(Label(_convolved(label.index, convolution, side, shapes, name), label.scaled))
        return _multiplied(*sides)

    # Backwards

    def leaves_behind(self, demands: Mapping[Any, Index]) -> dict[str, Index] | None:
        """The leaves that must be scaled, with index arrays, to scale some values; None if there are none.

        If a product can be scaled by either operand, one that depends on the variables alone is preferred. `push`
        checks that nothing else is scaled.
        """
        walk = _Walk(self)
        return walk.leaves if all(walk.demand(atom, index) for atom, index in demands.items()) and walk.run() else None

    def operands_behind(self, number: int, result: int, index: Index) -> list[tuple[Any, Index]] | None:
        """The operands of an equation that must be scaled to scale one of its results, with index arrays."""
        equation = self.equations[number]
        name, params, operands = equation.primitive.name, equation.params, equation.invars
        shapes = [atom.aval.shape for atom in operands]
        if labels.moves(name):
            if not is_floating(operands[0].aval.dtype):
                return None
            values = [self.value(atom) if labels_need_values(name) else None for atom in operands]
            found = labels.backward(name, params, shapes, index, result, values)
            if found is None:
                return None
            return [(atom, wanted) for atom, wanted in zip(operands, found, strict=True) if wanted is not None]
        if name in _SUMS or name in _UNARY or name == "select_n":
            read = operands[1:] if name == "select_n" else operands
            return self._each(read, index, name)
        if name == "div":
            return self._each(operands[:1], index, name)
        if name == "mul":
            found = [self._each([atom], index, name) for atom in operands if not self.is_constant(atom)]
            return self._one_of(number, index, [pairs[0] for pairs in found if pairs])
        if name in _REDUCTIONS:
            return [(operands[0], np.expand_dims(index, tuple(params["axes"])))]
        if name in _CUMULATIVE:
            return _alone(operands[0], labels.collapsed(index, (params["axis"],)))
        if name in _WINDOWS:
            return _alone(operands[0], labels.collapsed(index, _windowed_axes(params)))
        if self.is_product(number):
            return self._one_of(number, index, self.factors_behind(number, index))
        return None

    def _each(self, operands: Sequence[Any], index: Index, name: str) -> list[tuple[Any, Index]] | None:
        """The same index array for each operand; None if one has fewer entries than it needs."""
        found = []
        for atom in operands:
            if self.is_constant(atom):
                if not self._is_free(atom, name):
                    return None
                continue
            shape = atom.aval.shape or (1,) * index.ndim
            wanted = labels.fitted(index, shape)
            if wanted is None:
                return None
            wanted = wanted if atom.aval.shape else wanted.reshape(())
            found.append((atom, wanted))
        return found

    def _is_free(self, atom: Any, name: str) -> bool:
        """Whether any gain may scale a constant: zeros, and values that are never the largest or the smallest."""
        neutral = {"max": -np.inf, "min": np.inf}.get(name)
        value = self.value(atom) if neutral is not None and self.is_constant(atom) else None
        return self.is_zero(atom) or (value is not None and bool(np.all(value == neutral)))

    def factors_behind(self, number: int, index: Index) -> list[tuple[Any, Index]]:
        equation = self.equations[number]
        dot, convolution = self.dot(number), self.convolution(number)
        shapes = [atom.aval.shape for atom in equation.invars]
        found = []
        for side, atom in enumerate(equation.invars):
            if dot:
                pairs = [(target, axis) for axis, target in dot.out_axes(side)]
                own = {target for target, _ in pairs}
                wanted = labels.collapsed(index, [axis for axis in range(index.ndim) if axis not in own])
                wanted = None if wanted is None else _placed(wanted, pairs, len(shapes[side]))
            else:
                wanted = _unconvolved(index, convolution, side, shapes) if convolution else None
            if wanted is not None:
                found.append((atom, wanted))
        return found

    def _one_of(self, number: int, index: Index, candidates: list[tuple[Any, Index]]) -> list[tuple[Any, Index]] | None:
        """The factor of a product whose scaling scales the product; preferably one that depends on variables alone."""
        ordered = sorted(candidates, key=lambda candidate: not self.is_derived(candidate[0]))
        if len(ordered) <= 1:
            return ordered or None
        key = (number, index.shape, index.tobytes())
        if key not in self._chosen:
            suited = (i for i, candidate in enumerate(ordered) if self._scales(number, index, *candidate))
            self._chosen[key] = next(suited, None)
        chosen = self._chosen[key]
        return None if chosen is None else [ordered[chosen]]

    def _scales(self, number: int, index: Index, atom: Any, wanted: Index) -> bool:
        """Whether the leaves behind one factor of a product scale it and not the other factor."""
        leaves = self.leaves_behind({atom: wanted})
        if leaves is None:
            return False
        starts = {self.leaves[path]: Label(closed(i)) for path, i in leaves.items() if not labels.is_nothing(i)}
        try:
            label = self.label_of(self.equations[number].outvars[0], starts)
        except Blocked:
            return False
        return label is not None and label.scaled and labels.unified(label.index, index) is not None

    def label_of(self, var: Var, starts: Mapping[Var, Label]) -> Label | None:
        """The effect of gains on one value.

        Raises:
          Blocked: an operation on the way has no rule.
        """
        known, numbers, pending = dict(starts), set(), [var]
        while pending:
            atom = pending.pop()
            if atom in self.made and self.made[atom][0] not in numbers:
                numbers.add(self.made[atom][0])
                pending += [a for a in self.equations[self.made[atom][0]].invars if isinstance(a, Var)]
        for number in sorted(numbers):
            equation = self.equations[number]
            found = [known.get(atom) if isinstance(atom, Var) else None for atom in equation.invars]
            if any(label is not None for label in found):
                results = self.step(number, found)
                known |= {v: label for v, label in zip(equation.outvars, results, strict=True) if label is not None}
        return known.get(var)


def _batch_axes(first: ClosedJaxpr, second: ClosedJaxpr) -> dict[Var, int]:
    """The image axis of each value: the one whose size changes with the number of images."""
    axes = {}
    for one, other in zip([first.jaxpr, *first.jaxpr.eqns], [second.jaxpr, *second.jaxpr.eqns], strict=True):
        pairs = (one.invars, other.invars) if one is first.jaxpr else (one.outvars, other.outvars)
        for var, same in zip(*pairs, strict=True):
            sizes = enumerate(zip(var.aval.shape, same.aval.shape, strict=True))
            axes[var] = next((axis for axis, (a, b) in sizes if a != b), -1)
    return axes


class _Walk:
    """Collects what must be scaled, from the last equation to the first."""

    def __init__(self, program: Program):
        self.program = program
        self.wanted: dict[Var, Index] = {}
        self.leaves: dict[str, Index] = {}
        self.queue: list[int] = []

    def demand(self, atom: Any, index: Index) -> bool:
        if labels.is_nothing(index):
            return True
        if self.program.is_constant(atom):
            return self.program.is_zero(atom)
        if atom is self.program.images or not is_floating(atom.aval.dtype):
            return False
        index = labels.compressed(index, strict=True)
        if atom in self.wanted:
            index = labels.unified(self.wanted[atom], index, strict=True)
            if index is None:
                return False
        self.wanted[atom] = index
        if atom in self.program.paths:
            self.leaves[self.program.paths[atom]] = index
        else:
            heapq.heappush(self.queue, -self.program.made[atom][0])
        return True

    def run(self) -> bool:
        last = None
        while self.queue:
            number = -heapq.heappop(self.queue)
            if number == last:
                continue
            last = number
            for result, var in enumerate(self.program.equations[number].outvars):
                if var in self.wanted:
                    found = self.program.operands_behind(number, result, self.wanted[var])
                    if found is None or not all(self.demand(atom, index) for atom, index in found):
                        return False
        return True


def labels_need_values(name: str) -> bool:
    return name in ("gather", "dynamic_slice")


def _agreed(indices: Sequence[Index], name: str) -> Index:
    result: Index | None = indices[0]
    for index in indices[1:]:
        result = labels.unified(result, index)
        if result is None:
            raise Blocked(name)
    return result


def _united(indices: Sequence[Index], name: str) -> Index:
    """Combines index arrays where at most one gain may change an entry."""
    result = indices[0]
    for index in indices[1:]:
        if not ((result == index) | (result < 0) | (index < 0)).all():
            raise Blocked(name)
        result = np.maximum(result, index)
    return labels.compressed(result)


def _multiplied(first: Label | None, second: Label | None) -> Label | None:
    if first is None or second is None:
        return first or second
    a, b = first.index, second.index
    if first.scaled and second.scaled:
        if ((a >= 0) & (b >= 0)).any():
            raise Blocked("mul")
        return Label(labels.compressed(np.maximum(a, b)))
    if not first.scaled and not second.scaled:
        return Label(_united([a, b], "mul"), scaled=False)
    scaled, changed = (a, b) if first.scaled else (b, a)
    if not ((changed < 0) | (changed == scaled)).all():
        raise Blocked("mul")
    return Label(labels.compressed(np.broadcast_to(scaled, np.broadcast_shapes(a.shape, b.shape))))


def _without_axes(label: Label, axes: Sequence[int], name: str, keep: bool = False) -> Label:
    if any(label.index.shape[axis] > 1 for axis in axes):
        raise Blocked(name)
    return label if keep else Label(label.index.squeeze(tuple(axes)), label.scaled)


def _windowed_axes(params: Mapping[str, Any]) -> list[int]:
    """The axes on which pooling windows change entries."""
    columns = ("window_dimensions", "window_strides", "base_dilation")
    sizes = zip(*[params[key] for key in columns], strict=True)
    pairs = enumerate(zip(sizes, params["padding"], strict=True))
    return [axis for axis, (ones, padding) in pairs if set(ones) != {1} or tuple(padding) != (0, 0)]


def _alone(atom: Any, index: Index | None) -> list[tuple[Any, Index]] | None:
    return None if index is None else [(atom, index)]


def closed(index: Index) -> Index:
    """The index array of a leaf: entries that any gain may scale are not scaled."""
    return np.where(index < 0, NONE, index).astype(np.int32)


def _placed(index: Index, pairs: Sequence[tuple[int, int]], rank: int) -> Index:
    """Moves axes to those of another value, (from, to); the other axes have size 1."""
    pairs = sorted(pairs, key=lambda pair: pair[1])
    order = [source for source, _ in pairs]
    rest = [axis for axis in range(index.ndim) if axis not in order]
    shape = [1] * rank
    for source, target in pairs:
        shape[target] = index.shape[source]
    return index.transpose([*order, *rest]).reshape(shape)


def _whole(index: Index, axis: int, shape: Any) -> Index:
    """The entries along one axis, `(shape[axis],)`; the other axes have size 1."""
    return np.broadcast_to(index.reshape(-1), (shape[axis],))


def _on_axes(matrix: Index, axes: tuple[int, int], rank: int) -> Index:
    shape = [1] * rank
    shape[axes[0]], shape[axes[1]] = matrix.shape
    return labels.compressed((matrix if axes[0] < axes[1] else matrix.T).reshape(shape))


def _convolved(index: Index, convolution: Convolution, side: int, shapes: Sequence[Any], name: str) -> Index:
    """The index array of a convolution's output, from that of its input (side 0) or its kernel."""
    axes = (convolution.inputs, convolution.kernel)[side]
    axis, rank = axes[1 - side], index.ndim  # features of the input, outputs of the kernel
    if any(other != axis for other in labels.varying(index)):
        raise Blocked(name)
    outputs = _whole(index, axis, shapes[side])
    if side == 0:
        by_group = outputs.reshape(convolution.groups, -1)
        if not (by_group == by_group[:, :1]).all():
            raise Blocked(name)
        outputs = np.repeat(by_group[:, 0], shapes[1][convolution.kernel[0]] // convolution.groups)
    return labels.compressed(outputs.reshape([-1 if a == convolution.outputs[1] else 1 for a in range(rank)]))


def _unconvolved(index: Index, convolution: Convolution, side: int, shapes: Sequence[Any]) -> Index | None:
    """The index array of a convolution's input (side 0) or its kernel, from that of its output."""
    rank, features = index.ndim, convolution.outputs[1]
    alike = labels.collapsed(index, [axis for axis in range(rank) if axis != features])
    if alike is None:
        return None
    outputs = _whole(alike, features, {features: shapes[1][convolution.kernel[0]]})
    if side == 0:
        by_group = labels.collapsed(outputs.reshape(convolution.groups, -1), [1])
        if by_group is None:
            return None
        outputs = np.repeat(by_group[:, 0], shapes[0][convolution.inputs[1]] // convolution.groups)
    axis = convolution.inputs[1] if side == 0 else convolution.kernel[0]
    return labels.compressed(outputs.reshape([-1 if a == axis else 1 for a in range(rank)]), strict=True)
