"""Converts PyTorch networks to a `Model`, and its weights back."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from osp_jax.interop.checks import checked_classes, checked_moments
from osp_jax.model import Model
from osp_jax.networks.cpu.depthwise import fast_depthwise
from osp_jax.runtime.errors import InputError, shown

_TOLERANCE = 1e-3  # between PyTorch's logits and the program's, relative to the largest


def from_torch(
    module: Any,
    example: Any,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    forgotten: Sequence[int] = (),
) -> Model:
    """Converts a trained PyTorch network to a `Model`; the module itself is not modified.

    `torch.export` traces a copy of it in eval mode, for batches of any size. The variables are a flat dict with the
    keys of `module.state_dict()`: the parameters and float buffers that the network reads, as float32. Methods that
    train trace it in train mode when they start.

    Args:
      module: a `torch.nn.Module` that takes float images `(batch, c, h, w)` and returns logits `(batch, classes)`.
      example: images as the module takes them, a float tensor or array `(n, c, h, w)`; only its shape matters.
      mean, std: normalisation that the network was trained with, per image channel, on the 0..1 scale.
      class_names: by class number.
      forgotten: numbers of already forgotten classes.

    Returns:
      the `Model`.

    Raises:
      InputError: PyTorch or torchax is not installed, the module does not take the example or does not return one logit
        per class, `torch.export` cannot trace it, or it uses an unsupported operation.
    """
    _check_installed()
    from osp_jax.interop.torch_export import traced
    from osp_jax.interop.torch_state import own_copy

    moments, names = checked_moments(mean, std), checked_classes(class_names)
    example = _checked_example(example, len(moments[0]))
    copy, state = own_copy(module)
    images, logits = _tried(copy, example, len(names))
    program = traced(copy, images, state.names, train=False)
    variables = {key: jnp.asarray(state.float32(key)) for key in program.inputs}
    model = Model(
        _Apply(program, state),
        variables,
        *moments,
        names,
        tuple(sorted(forgotten)),
        _TrainApply(copy, images, {name: key for name, key in state.names.items() if key in variables}),
        is_parameter=_Parameters(state.parameters),
    )
    _check_logits(model, images[:2].numpy(), logits.numpy())
    return model


def to_torch(model: Model) -> dict[str, Any]:
    """Returns the weights of a model from PyTorch, as `module.load_state_dict` takes them.

    Returns:
      A tensor for each key of the original `module.state_dict()`, in its own dtype, on the CPU. An unchanged entry has
      its original value, bit by bit; tied entries change together.

    Raises:
      InputError: the model was not created by `from_torch`.
    """
    if not isinstance(model.apply, _Apply):
        raise InputError("the model did not come from a PyTorch module; take model.variables instead")
    return model.apply.state.with_values(model.variables)


@dataclasses.dataclass(frozen=True)
class _Apply:
    """The network in eval mode; equal for equal programs, so that compiled programs are shared."""

    program: Any
    state: Any = dataclasses.field(compare=False, repr=False)
    channels_first = True  # the layout of PyTorch's images, for exported programs

    @fast_depthwise
    def __call__(self, variables: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
        return self.program.run(variables, images)[0]


class _TrainApply:
    """The network in train mode, traced on its first call, after which the module is released."""

    def __init__(self, module: Any, example: Any, names: Mapping[str, str]) -> None:
        self._untraced: tuple[Any, ...] = (module, example, names)
        self._program: Any = None

    @fast_depthwise
    def __call__(
        self, variables: Mapping[str, jax.Array], images: jax.Array, rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self._program is None:
            from osp_jax.interop.torch_export import traced

            module, example, names = self._untraced
            self._program = traced(module.train(), example, names, train=True)
            self._untraced = ()
        logits, updates = self._program.run(variables, images, rng)
        return logits, {**variables, **updates}


@dataclasses.dataclass(frozen=True)
class _Parameters:
    """Whether a key belongs to a parameter."""

    keys: frozenset[str]

    def __call__(self, path: str) -> bool:
        return path in self.keys


def _check_installed() -> None:
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed; run: pip install "osp_jax[torch]"') from error
    try:
        with _unchanged(torch):
            import torchax.ops.jaten  # noqa: F401 (it fills the registry of operations)
    except (ImportError, AttributeError) as error:  # an operation that this version of PyTorch lacks
        raise InputError(
            f'torchax is not installed or does not fit PyTorch {torch.__version__}; run: pip install "osp_jax[torch]"'
        ) from error


@contextlib.contextmanager
def _unchanged(torch: Any) -> Iterator[None]:
    """Undoes the effects of `import torchax` on PyTorch: a device 'jax', with which dynamo fails, and settings."""
    fast, telemetry = torch.backends.mha.get_fastpath_enabled(), "ENABLE_RUNTIME_UPTIME_TELEMETRY"
    absent = telemetry not in os.environ
    try:
        with (
            mock.patch("torch.utils.rename_privateuse1_backend"),
            mock.patch("torch._register_device_module"),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if absent:
            os.environ.pop(telemetry, None)


def _checked_example(example: Any, channels: int) -> Any:
    """The example as a float32 tensor on the CPU."""
    import torch

    if not isinstance(example, torch.Tensor | np.ndarray | jax.Array):
        raise InputError(
            f"example is {shown(example)}; give images as the module takes them, a float tensor (n, c, h, w)"
        )
    if not isinstance(example, torch.Tensor):
        example = torch.from_numpy(np.array(example))
    shape = tuple(example.shape)
    if example.ndim != 4 or 0 in shape or not example.is_floating_point():
        raise InputError(
            f"example is {example.dtype} of shape {shape}; give images as the module takes them, a float tensor "
            "(n, c, h, w)"
        )
    if channels not in (1, shape[1]):
        raise InputError(
            f"example has {shape[1]} channels (n, c, h, w) and mean {channels} values; give one for each channel"
        )
    return example.detach().cpu().float()


def _tried(module: Any, example: Any, classes: int) -> tuple[Any, Any]:
    """(three random images of the example's shape, the module's logits for the first two)."""
    import torch

    images = torch.randn((3, *example.shape[1:]), generator=torch.Generator().manual_seed(0))
    _logits(module, example, classes, "give images as in its training")
    fixed = f"it takes batches of {len(example)} only: let it read the size of the batch from x.shape[0]"
    _logits(module, images, classes, fixed)
    return images, _logits(module, images[:2], classes, fixed)


def _logits(module: Any, images: Any, classes: int, remedy: str) -> Any:
    import torch

    from osp_jax.interop.torch_export import first_line, place_of, quiet

    try:
        with quiet(), torch.no_grad():
            logits = module(images)
    except Exception as error:  # user code may raise anything
        raise InputError(
            f"the module cannot be applied to images of shape {tuple(images.shape)}{place_of(error)} "
            f"({first_line(error)}); {remedy}"
        ) from error
    _check_output(logits, len(images), classes)
    if not torch.isfinite(logits).all():
        raise InputError("the module gives logits that are not finite for random images; check its weights")
    return logits.float()


def _check_output(logits: Any, batch: int, classes: int) -> None:
    import torch

    if not isinstance(logits, torch.Tensor):
        parts = f" with {', '.join(map(str, logits))}" if isinstance(logits, Mapping) else ""
        raise InputError(
            f"the module returns a {type(logits).__name__}{parts}; wrap it in a torch.nn.Module whose forward returns "
            "the logits alone"
        )
    if logits.ndim != 2 or len(logits) != batch:
        raise InputError(
            f"the module returns {tuple(logits.shape)} for {batch} images; it must return logits (batch, classes)"
        )
    if logits.shape[1] != classes:
        raise InputError(
            f"the network has {logits.shape[1]} logits and there are {classes} class names; give one for each logit"
        )


def _check_logits(model: Model, images: np.ndarray, logits: np.ndarray) -> None:
    """Raises `InputError` if the program's logits differ from the module's."""
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jax.jit(model.apply)(model.variables, images.transpose(0, 2, 3, 1)))
    error, largest = np.abs(found - logits).max(), np.abs(logits).max()
    if not error <= _TOLERANCE * largest:
        raise InputError(
            f"the network's logits in JAX differ from PyTorch's by {error:.2g} (the largest is {largest:.2g}): an "
            "operation in it means something else here; give the network in JAX by from_function"
        )
