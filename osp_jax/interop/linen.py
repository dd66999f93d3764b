"""Converts Flax Linen modules to a `Model`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze

from osp_jax.interop.calls import Call, find_call, mode_fields
from osp_jax.interop.checks import checked_classes, checked_moments
from osp_jax.model import Model, in_params
from osp_jax.networks.cpu.depthwise import fast_depthwise
from osp_jax.runtime.errors import InputError, shown


@dataclasses.dataclass(frozen=True)
class _Of:
    """A function of a module; equal for equal modules, so that compiled programs are shared."""

    module: nn.Module
    call: Call

    def __hash__(self) -> int:
        try:
            return hash((type(self), self.module, self.call))
        except TypeError:  # a module with a list or an array among its fields
            return id(self.module)

    def __eq__(self, other: Any) -> bool:
        if type(other) is not type(self) or self.call != other.call:
            return False
        return self.module is other.module or _equal(self.module, other.module)


class _Apply(_Of):
    @fast_depthwise
    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        positions, keywords = self.call.arguments(train=False)
        return cast(jax.Array, _in_mode(self.module, False).apply(variables, images, *positions, **keywords))


class _TrainApply(_Of):
    @fast_depthwise
    def __call__(self, variables: Any, images: jax.Array, rng: jax.Array) -> tuple[jax.Array, Any]:
        positions, keywords = self.call.arguments(train=True)
        given: dict[str, Any] = {"mutable": [name for name in variables if name != "params"], "rngs": {"dropout": rng}}
        module = _in_mode(self.module, True)
        logits, updated = module.apply(variables, images, *positions, **keywords, **given)
        return logits, {**variables, **updated}


class _Init(_Of):
    def __call__(self, key: jax.Array, image_shape: tuple[int, ...]) -> Any:
        positions, keywords = self.call.arguments(train=False)
        module = _in_mode(self.module, False)
        return unfreeze(module.init(key, jnp.zeros((1, *image_shape)), *positions, **keywords))


def from_linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    forgotten: Sequence[int] = (),
) -> Model:
    """Converts a trained Linen module to a `Model`.

    The train mode is set as the module's `__call__` requires: `train`, `training`, `deterministic` or
    `use_running_average`, by position or by keyword, as a field of the module, or not at all.

    Args:
      module: takes float images `(batch, h, w, c)` and returns logits `(batch, classes)`.
      variables: what `module.apply` takes: 'params', and other collections such as 'batch_stats'.
      mean, std: normalisation that the network was trained with, per image channel, on the 0..1 scale.
      class_names: by class number.
      forgotten: numbers of already forgotten classes.

    Returns:
      the `Model`.

    Raises:
      InputError: `module` is no Linen module, `variables` lacks 'params', or the module has a required argument of
        unknown meaning.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module is {shown(module)}; give a Linen module, or use from_nnx or from_function")
    variables = unfreeze(dict(variables)) if isinstance(variables, Mapping) else variables
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise InputError("variables have no collection 'params'; give what module.apply takes, {'params': ...}")
    call = find_call(type(module).__call__.__get__(module), type(module).__name__)
    names = checked_classes(class_names)
    return Model(
        _Apply(module, call),
        dict(variables),
        *checked_moments(mean, std),
        names,
        tuple(sorted(forgotten)),
        _TrainApply(module, call),
        _Init(module, call),
        in_params,
    )


def _in_mode(module: nn.Module, train: bool) -> nn.Module:
    fields: dict[str, Any] = {name: train == trains for name, trains in mode_fields(module).items()}
    fields = {name: value for name, value in fields.items() if isinstance(getattr(module, name), bool)}
    return module.clone(**fields) if fields else module


def _equal(first: nn.Module, second: nn.Module) -> bool:
    try:
        return bool(first == second)
    except (TypeError, ValueError):  # arrays among their fields
        return False


def linen_module(model: Model) -> nn.Module:
    """Returns the Linen module of a model.

    Raises:
      InputError: the model was not created by `from_linen`.
    """
    if not isinstance(model.apply, _Apply):
        raise InputError("the model did not come from a Linen module, which this needs; build it by from_linen")
    return model.apply.module


def with_fields(model: Model, **fields: Any) -> Model:
    """Returns the model with new values for those `fields` that its Linen module has; the variables do not change."""
    if not isinstance(model.apply, _Apply):
        return model
    module = model.apply.module
    known = {name: value for name, value in fields.items() if hasattr(module, name)}
    return model.replace(apply=_Apply(module.clone(**known), model.apply.call)) if known else model
