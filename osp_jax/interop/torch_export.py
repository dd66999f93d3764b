"""Traces a module with `torch.export`, and converts it to a JAX program."""

import contextlib
import dataclasses
import functools
import io
import logging
import operator
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from osp_jax.interop.torch_operations import OPERATIONS, RANDOM, SIZES, dtype_of
from osp_jax.interop.torch_program import Program, Step, Value, filled, needed_steps, numbers_in
from osp_jax.runtime.errors import InputError

_WHOLE = (  # operations that are not decomposed
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d avg_pool1d einsum elu gelu "
    "hardsigmoid hardswish leaky_relu linear matmul max_pool1d max_pool2d max_pool3d scaled_dot_product_attention silu"
)
_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._check")
_STORAGE = ("device", "layout", "memory_format", "pin_memory")  # arguments without effect on values
_CODE = 80  # longest line of code to show, in characters
_REMEDY = "rewrite that layer, or give the network in JAX by from_function"

# Ways to trace, tried in order. The last drops conditions on the batch size, for example that a number of windows is a
# multiple of the windows per image; its result is compared with the module's own logits.
_WAYS = (
    {"strict": False},
    {"strict": True},
    {"strict": True, "prefer_deferred_runtime_asserts_over_guards": True},
)


def traced(module: Any, example: Any, names: Mapping[str, str], *, train: bool) -> Program:
    """The program of a module.

    Args:
      module: a PyTorch module, on the CPU, float32, in its mode.
      example: two or more images, NCHW.
      names: variable keys by the names of their tensors in the module; other tensors are constants.
      train: whether the module is in train mode.

    Raises:
      InputError: PyTorch cannot trace it, or it uses an unsupported operation.
    """
    with quiet():
        exported = _exported(module, example)
        return _program(exported, names, train)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings and stderr of PyTorch's tracer, and disables its fused attention."""
    import torch

    disabled, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.CRITICAL)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(disabled)


def _exported(module: Any, example: Any) -> Any:
    import torch

    errors = []
    for way in _WAYS:
        shapes = torch.export.ShapesCollection()
        shapes[example] = {0: torch.export.Dim("batch", min=2)}
        try:
            return _decomposed(torch.export.export(module, (example,), dynamic_shapes=shapes, **way))
        except Exception as error:  # the tracer and user code may raise anything
            errors.append(error)
    mode = " in train mode" if module.training else ""
    place = next(filter(None, map(place_of, errors)), "")
    raise InputError(f"torch.export cannot trace the network{mode}{place}: {_reason(errors[0])}") from errors[0]


def _decomposed(program: Any) -> Any:
    """The program in the supported operations."""
    try:
        return program.run_decompositions(_decompositions(_WHOLE.split()))
    except RuntimeError:  # the strides of a whole operation differ from those of its parts
        return program.run_decompositions(_decompositions(()))


def _reason(error: Exception) -> str:
    """The meaning of a tracer error, and the remedy."""
    text = str(error)
    if type(error).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in text:
        return (
            "a branch or a size there depends on the values of the images; compute both sides and choose by torch.where"
        )
    if "Constraints violated" in text or "Specializations unexpectedly required" in text:
        return (
            "it works for some sizes of the batch only; take the size from x.shape[0] wherever it is needed, and let "
            "no loop run over the images"
        )
    return f"{first_line(error)}; {_REMEDY}"


def _decompositions(whole: Sequence[str]) -> dict[Any, Any]:
    """PyTorch's decompositions, except those of operations that stay whole."""
    import torch
    from torch.export import default_decompositions
    from torchax.decompositions import DECOMPOSITIONS

    table = default_decompositions()
    for operation, function in DECOMPOSITIONS.items():
        if _function(operation, train=True) is None and operation not in table:
            table[operation] = function
    for name in whole:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            table.pop(getattr(packet, overload), None)
    return table


def _function(target: Any, train: bool) -> tuple[str, Callable[..., Any], bool] | None:
    """(name, JAX function, whether it is random) for a target of the graph, or None."""
    import torch

    if not isinstance(target, torch._ops.OpOverload):
        name = getattr(target, "__name__", str(target))
        known = not isinstance(target, torch._ops.HigherOrderOperator)
        return (name, SIZES.get(name, target), False) if known else None
    from torchax.ops import jaten, ops_registry

    del jaten  # imported to fill the registry
    full = f"{target.namespace}.{target.overloadpacket.__name__}.{target._overloadname}"
    packet = full.rpartition(".")[0]
    for name in (full, packet):
        if name in RANDOM and (train or name not in OPERATIONS):
            return full, RANDOM[name], True
        if name in OPERATIONS:
            return full, OPERATIONS[name], False
    found = ops_registry.all_aten_ops.get(target) or ops_registry.all_aten_ops.get(target.overloadpacket)
    if found is None or not found.is_jax_function or found.needs_env:
        return None
    return full, found.func, False


@dataclasses.dataclass
class _Reading:
    """The result of reading a graph so far: the steps, and precomputed values without variables and images."""

    train: bool
    steps: list[Step]
    folded: dict[int, Any]
    missing: dict[int, str]  # errors by step number
    count: int = 0

    def number(self) -> int:
        self.count += 1
        return self.count


def _program(exported: Any, names: Mapping[str, str], train: bool) -> Program:
    import torch

    tensors, signature = {**exported.state_dict, **exported.constants}, exported.graph_signature
    reading = _Reading(train, [], {}, {})
    images, inputs, given = reading.number(), {}, []
    for spec in signature.input_specs:
        if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT:
            given.append(Value(images))
        elif spec.target in names:
            given.append(Value(inputs.setdefault(names[spec.target], reading.number())))
        else:
            given.append(Value(reading.number()))
            reading.folded[given[-1].number] = tensors[spec.target].detach()
    results = _read(exported.graph_module, given, reading)
    outputs = [(spec.target, value) for spec, value in zip(signature.output_specs, results, strict=True)]
    updates = {names[target]: value for target, value in outputs if train and target in names}
    logits = next(value for target, value in outputs if target is None)

    steps, read = needed_steps(reading.steps, [logits.number, *(value.number for value in updates.values())])
    for step in steps:
        if step.result in reading.missing:
            raise InputError(reading.missing[step.result])
    constants = {number: _array(value) for number, value in reading.folded.items() if number in read}
    inputs = {key: number for key, number in inputs.items() if number in read}
    return Program(images, inputs, constants, steps, logits, updates)


def _read(module: Any, given: Sequence[Any], reading: _Reading) -> Any:
    """Appends the steps of a graph, whose inputs are `given`, and returns its outputs."""
    values, inputs = {}, iter(given)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(inputs)
        elif node.op == "get_attr":
            values[node] = _attribute(module, node.target, reading)
        elif node.op == "output":
            return _plain(node.args[0], values)
        elif not str(node.target).startswith(_CHECKS):
            arguments = _plain(node.args, values)
            keywords = {name: _plain(value, values) for name, value in node.kwargs.items()}
            values[node] = _step(node, arguments, keywords, reading)
    return ()


def _attribute(module: Any, name: str, reading: _Reading) -> Any:
    import torch

    found = operator.attrgetter(name)(module)
    if not isinstance(found, torch.Tensor):
        return found
    number = reading.number()
    reading.folded[number] = found.detach()
    return Value(number)


def _step(node: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], reading: _Reading) -> Any:
    """The value of a node: from a new step, from a tensor computed now, or from an inner graph."""
    import torch

    if str(node.target).startswith("wrap_with_"):  # the body of `with torch.no_grad()` and similar contexts
        position = next(i for i, argument in enumerate(arguments) if hasattr(argument, "graph"))
        return _read(arguments[position], arguments[position + 1 :], reading)
    if node.target is operator.getitem and isinstance(arguments[0], tuple):
        return arguments[0][arguments[1]]
    number = reading.number()
    name, function, random = _function(node.target, reading.train) or (str(node.target), None, False)
    read = set(numbers_in((arguments, *keywords.values())))
    if read <= reading.folded.keys() and not random and not name.startswith("aten.empty"):
        keywords = {key: filled(value, reading.folded) for key, value in keywords.items()}
        found = node.target(*filled(arguments, reading.folded), **keywords)
        # Contiguous, so that a later `view` works: the trace of `clone` lacks its memory format.
        reading.folded[number] = found.contiguous() if isinstance(found, torch.Tensor) else found
        return Value(number)
    where = f"{name}{_place_of_node(node)}"
    if function is None:
        reading.missing[number] = f"the network uses {where}, which cannot be brought to JAX; {_REMEDY}"
    elif random and not reading.train:
        reading.missing[number] = (
            f"the network draws random numbers in eval mode ({where}); let them depend on self.training"
        )
    elif str(getattr(function, "__module__", "")).startswith("torchax"):
        function = _guarded(function, where)
    keywords = {key: value for key, value in keywords.items() if key not in _STORAGE}
    reading.steps.append(Step(name, function, arguments, tuple(keywords.items()), number, random))
    return Value(number)


def _guarded(function: Callable[..., Any], where: str) -> Callable[..., Any]:
    """Wraps a function of torchax to name its call site in errors, such as for sizes that depend on values."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except Exception as error:  # torchax may raise anything for unsupported arguments
            raise InputError(
                f"the network uses {where}, which cannot be brought to JAX ({first_line(error)}); {_REMEDY}"
            ) from error

    return guarded


def _plain(argument: Any, values: Mapping[Any, Any]) -> Any:
    """An argument of a node with the values of other nodes inserted, and tuples for lists."""
    import torch

    if isinstance(argument, torch.fx.Node):
        return values[argument]
    if isinstance(argument, tuple | list):
        return tuple(_plain(each, values) for each in argument)
    return argument


def _array(value: Any) -> Any:
    import torch

    if isinstance(value, torch._subclasses.FakeTensor):  # a value that the tracer lost track of
        raise InputError(
            "torch.export cannot trace the network: it takes values out of a tensor, as by x.data or x.tolist(); use "
            "x.detach() instead"
        )
    return value.numpy().astype(dtype_of(value.dtype)) if isinstance(value, torch.Tensor) else value


# Lines of user code


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)


def place_of(error: BaseException) -> str:
    """' at FILE:LINE (code)' for the innermost line of user code in an error's traceback, or ''."""
    frames = [(frame.filename, frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    return _place(frames) or _place(_frames(str(error)))


def _place_of_node(node: Any) -> str:
    return _place(_frames(node.meta.get("stack_trace") or ""))


def _frames(text: str) -> list[tuple[str, str, str]]:
    """(file, line, code) of the lines of a traceback in a text."""
    return re.findall(r'File "(.*)", line (\d+), in .*\n\s*(.*)', text)


def _place(frames: Iterable[tuple[str, Any, str]]) -> str:
    import torch

    foreign = [str(Path(of).parent) for of in (torch.__file__, __file__, os.__file__)]
    own = [frame for frame in frames if not frame[0].startswith((*foreign, "<"))]
    if not own:
        return ""
    file, line, code = own[-1]
    return f" at {Path(file).name}:{line} ({code if len(code) <= _CODE else code[:_CODE] + ' ...'})"
