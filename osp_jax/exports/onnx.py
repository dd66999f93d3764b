"""A model as an ONNX program, converted by `jax2onnx`, with simplified operations and named weights.

    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    (logits,) = session.run(["logits"], {"images": images})  # normalised float32 images, any batch size
    print(session.get_modelmeta().custom_metadata_map)  # classes, mean, std, layout, forgotten

Values that do not depend on the images are precomputed: kernels in ONNX's axis order, norms as two constants.
"""

import contextlib
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from osp_jax.exports.onnx_operations import REWRITTEN, lowerings
from osp_jax.exports.program import Program, any_batch
from osp_jax.program.flat import bind, evaluate, flatten, is_floating
from osp_jax.runtime.errors import InputError, one_line
from osp_jax.trees import leaves_by_path

OPSET = 18
"""Opset of 2022, the first in which reductions take their axes as an input, as `jax2onnx` writes them."""

_MOST_BYTES = 2**31 - 1  # size limit of a protocol buffer
_REMEDY = "export it with --format=stablehlo"


def onnx_bytes(program: Program, metadata: Mapping[str, str]) -> bytes:
    """The ONNX model: input 'images' `(batch, *image_shape)`, output 'logits' `(batch, classes)`, float32.

    Args:
      metadata: stored in the model's `metadata_props`.

    Raises:
      InputError: the extra is not installed, the program cannot be traced for a symbolic batch size, an operation
        cannot be converted (the message names it), or the model exceeds ONNX's size limit.
    """
    jax2onnx = _imported()
    images = any_batch(program)
    flat = _rewritten(flatten(program.function, program.variables, images))
    rest, constants = _folded(flat, leaves_by_path(program.variables))
    names = list(constants)
    specs = [images, *[jax.ShapeDtypeStruct(value.shape, value.dtype) for value in constants.values()]]
    with _naming_failures({equation.primitive.name for equation in rest.jaxpr.eqns}):
        model = jax2onnx.to_onnx(
            lambda *operands: evaluate(rest, operands)[0][0],
            inputs=specs,
            input_names=["images", *names],
            output_names=["logits"],
            model_name="osp_jax",
            opset=OPSET,
        )
    _fill(model, constants)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    if model.ByteSize() > _MOST_BYTES:
        raise InputError(f"the network has {model.ByteSize() / 1e9:.1f} GB, and ONNX holds 2 GB in one file; {_REMEDY}")
    return model.SerializeToString()


def session(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """The function from images to logits of an ONNX model, run by ONNX Runtime on the CPU.

    Raises:
      InputError: ONNX Runtime rejects the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures are also raised
    try:
        running = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise _refused_by_runtime(error) from error

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return running.run(["logits"], {"images": images})[0]
        except _runtime_errors() as error:
            raise _refused_by_runtime(error) from error

    return run


def _imported() -> Any:
    try:
        with _quiet(), _unchanged("jax", "flax"):
            import jax2onnx
            import onnxruntime  # noqa: F401
            from jax2onnx.plugins.plugin_system import import_all_plugins

            import_all_plugins()
    except ImportError as error:
        raise InputError(
            f"ONNX needs jax2onnx and onnxruntime ({one_line(str(error))[:120]}): pip install 'osp_jax[onnx]'"
        ) from error
    return jax2onnx


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the log of jax2onnx: tracebacks of plugins for missing packages, values without a type."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _unchanged(*packages: str) -> Iterator[None]:
    """Restores public functions of packages that the block replaces, as jax2onnx does with `jnp.cumsum`."""

    def public() -> list[Any]:
        names = [name for name in sys.modules if name.split(".")[0] in packages and "._" not in name]
        return [sys.modules[name] for name in names]

    before = [(module, dict(vars(module))) for module in public()]
    try:
        yield
    finally:
        for module, values in before:
            for name, value in values.items():
                if callable(value) and vars(module).get(name) is not value:
                    setattr(module, name, value)


def _rewritten(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program with the operations of `REWRITTEN` replaced."""

    def run(*operands: jax.Array) -> list[Any]:
        known = dict(zip(program.jaxpr.invars, operands, strict=True))
        known |= zip(program.jaxpr.constvars, program.consts, strict=True)
        for equation in program.jaxpr.eqns:
            read = [_value(atom, known) for atom in equation.invars]
            rewrite = REWRITTEN.get(equation.primitive.name)
            results = [rewrite(*read, **equation.params)] if rewrite else bind(equation, read, equation.params)
            known |= zip(equation.outvars, results, strict=True)
        return [_value(atom, known) for atom in program.jaxpr.outvars]

    return flatten(run, *[jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in program.jaxpr.invars])


def _value(atom: Any, known: Mapping[Var, Any]) -> Any:
    return atom.val if isinstance(atom, Literal) else known[atom]


def _folded(program: ClosedJaxpr, leaves: Mapping[str, Any]) -> tuple[ClosedJaxpr, dict[str, np.ndarray]]:
    """(the part of the program that depends on the images; the arrays that it reads, by name).

    The arguments of the first are the images, then the arrays. Leaves of the variables are named by their path; values
    computed from them by the path of the first leaf, and the operation.
    """
    *inputs, images = program.jaxpr.invars
    names: dict[Var, str] = dict(zip(inputs, leaves, strict=True))
    numbers = {var: f"constant_{i}" for i, var in enumerate(program.jaxpr.constvars)}
    names |= numbers
    before, after = [], []
    for equation in program.jaxpr.eqns:
        if _is_fixed(equation, names):
            before.append(equation)
            origin = next((names[atom] for atom in equation.invars if isinstance(atom, Var)), "constant")
            name = f"{origin.partition(':')[0]}:{equation.primitive.name}"
            names |= {var: name for var in equation.outvars}
        else:
            after.append(equation)
    read = [atom for equation in after for atom in equation.invars] + list(program.jaxpr.outvars)
    wanted = list(dict.fromkeys(atom for atom in read if isinstance(atom, Var) and atom in names))
    first = Jaxpr(program.jaxpr.constvars, inputs, wanted, before)
    values = jax.jit(jaxpr_as_fun(ClosedJaxpr(first, program.consts)))(*leaves.values())
    # Small arrays and arrays of other types may be part of an operation, such as indices, and stay constants.
    large = [is_floating(value.dtype) and value.ndim > 0 for value in values]
    constants = [(var, value) for var, value, is_large in zip(wanted, values, large, strict=True) if not is_large]
    arguments = [(var, value) for var, value, is_large in zip(wanted, values, large, strict=True) if is_large]
    rest = Jaxpr([var for var, _ in constants], [images, *[var for var, _ in arguments]], program.jaxpr.outvars, after)
    taken: dict[str, np.ndarray] = {}
    for var, value in arguments:
        taken[_unused(names[var], taken)] = np.asarray(value)
    return ClosedJaxpr(rest, [value for _, value in constants]), taken


def _is_fixed(equation: JaxprEqn, names: Mapping[Var, str]) -> bool:
    """Whether an equation does not depend on the images or their number, and does more than repeat numbers."""
    if any(isinstance(atom, Var) and atom not in names for atom in equation.invars):
        return False
    if any(_is_symbolic(value) for value in equation.params.values()):
        return False
    sizes = [[getattr(atom.aval, "size", 1) for atom in atoms] for atoms in (equation.invars, equation.outvars)]
    return sum(sizes[1]) <= max(sum(sizes[0]), 1024)


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(map(_is_symbolic, value))
    return jax.export.is_symbolic_dim(value)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    if name not in taken and name not in ("images", "logits"):
        return name
    return next(other for i in itertools.count(2) if (other := f"{name}_{i}") not in taken)


@contextlib.contextmanager
def _naming_failures(operations: set[str]) -> Iterator[None]:
    """Makes `jax2onnx` use our lowerings, and raises errors of its own lowerings as an `InputError` that names the
    operation."""
    from jax2onnx.plugins.plugin_system import PLUGIN_REGISTRY

    for name in sorted(operations - set(PLUGIN_REGISTRY)):
        raise InputError(f"ONNX export cannot convert the operation {name!r} of this network; {_REMEDY}")
    before = {name: PLUGIN_REGISTRY[name] for name in operations}
    ours = lowerings()
    PLUGIN_REGISTRY.update({name: _Lowering(name, ours.get(name, plugin)) for name, plugin in before.items()})
    try:
        with _quiet():
            yield
    finally:
        PLUGIN_REGISTRY.update(before)


class _Lowering:
    """A plugin for `jax2onnx`: an object with `lower(ctx, eqn)`."""

    def __init__(self, name: str, plugin: Any):
        self.name, self.plugin = name, plugin

    def lower(self, ctx: Any, eqn: Any) -> None:
        """Adds the ONNX nodes of an equation."""
        try:
            self.plugin.lower(ctx, eqn)
        except Exception as error:  # jax2onnx raises errors of many types for operations that it cannot convert
            shapes = ", ".join(str(atom.aval.str_short()) for atom in eqn.invars)
            reason = one_line(str(error).partition("\n")[0])[:160]
            raise InputError(
                f"ONNX export cannot convert the operation {self.name!r} of {shapes} ({reason}); {_REMEDY}"
            ) from error


def _fill(model: Any, constants: Mapping[str, np.ndarray]) -> None:
    """Turns the inputs that stand for arrays into initializers of the model."""
    from onnx import numpy_helper

    graph = model.graph
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items() if name in read
    )


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(
        kind for name in dir(state) if isinstance(kind := getattr(state, name), type) and issubclass(kind, Exception)
    )


def _refused_by_runtime(error: Exception) -> InputError:
    reason = one_line(str(error))[:240]
    return InputError(f"ONNX Runtime does not run the exported program ({reason}); {_REMEDY}")
