"""Converts Flax NNX modules to a `Model` and back."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from flax import nnx

from osp_jax.interop.calls import Call, find_call
from osp_jax.interop.checks import checked_classes, checked_moments
from osp_jax.model import Model, in_params
from osp_jax.networks.cpu.depthwise import fast_depthwise
from osp_jax.runtime.errors import InputError, shown


@dataclasses.dataclass(frozen=True, eq=False)
class _Structure:
    """A module without its arrays: its graph, states of the right types to fill, and its random state."""

    graph: Any
    likes: dict[str, Any]
    random: Any
    call: Call

    def __hash__(self) -> int:
        return hash((type(self), self.graph, self.call))

    def __eq__(self, other: Any) -> bool:
        return type(other) is type(self) and (self.graph, self.call) == (other.graph, other.call)

    def module(self, variables: dict[str, Any]) -> nnx.Module:
        """Returns the module with these variables."""
        states = [_filled(self.likes[name], variables[name]) for name in ("params", "batch_stats")]
        random = jax.tree.map(lambda leaf: leaf, self.random)  # a copy in this trace, which may change
        return nnx.merge(self.graph, *states, random)


_Kind = TypeVar("_Kind", "_Apply", "_TrainApply")


class _Apply(_Structure):
    @fast_depthwise
    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        positions, keywords = self.call.arguments(train=False)
        return self.module(variables)(images, *positions, **keywords)


class _TrainApply(_Structure):
    @fast_depthwise
    def __call__(self, variables: Any, images: jax.Array, rng: jax.Array) -> tuple[jax.Array, Any]:
        module = self.module(variables)
        nnx.reseed(module, default=rng, dropout=rng)
        positions, keywords = self.call.arguments(train=True)
        logits = module(images, *positions, **keywords)
        _, _, *others = nnx.split(module, nnx.Param, nnx.Not(nnx.RngState), ...)
        return logits, {**variables, "batch_stats": nnx.to_pure_dict(others[0])}


def from_nnx(
    module: nnx.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    forgotten: Sequence[int] = (),
) -> Model:
    """Converts a trained NNX module to a `Model`; the module itself is not modified.

    The variables are `{'params', 'batch_stats'}`, nested dicts: each `nnx.Param`, and all other state except random
    numbers.

    Args:
      module: takes float images `(batch, h, w, c)` and returns logits `(batch, classes)`.
      mean, std: normalisation that the network was trained with, per image channel, on the 0..1 scale.
      class_names: by class number.
      forgotten: numbers of already forgotten classes.

    Returns:
      the `Model`.

    Raises:
      InputError: `module` is no NNX module, or has a required argument of unknown meaning.
    """
    if not isinstance(module, nnx.Module):
        raise InputError(f"module is {shown(module)}; give an NNX module, or use from_linen or from_function")
    call = find_call(module.__call__, type(module).__name__)
    names, moments = checked_classes(class_names), checked_moments(mean, std)
    resting, params, state = _split(module, train=False, call=call, kind=_Apply)
    training, _, _ = _split(module, train=True, call=call, kind=_TrainApply)
    variables = {"params": params, "batch_stats": state}
    forgotten = tuple(sorted(forgotten))
    return Model(resting, variables, *moments, names, forgotten, training, is_parameter=in_params)


def to_nnx(model: Model) -> nnx.Module:
    """Returns the NNX module of a model, in eval mode, with the model's variables.

    Raises:
      InputError: the model was not created by `from_nnx`.
    """
    if not isinstance(model.apply, _Apply):
        raise InputError("the model did not come from an NNX module; take model.variables instead")
    return model.apply.module(model.variables)


def _split(module: nnx.Module, *, train: bool, call: Call, kind: type[_Kind]) -> tuple[_Kind, Any, Any]:
    copy = nnx.clone(module)
    copy.train() if train else copy.eval()
    graph, params, *others = nnx.split(copy, nnx.Param, nnx.Not(nnx.RngState), ...)
    state, random = others
    likes = {"params": params, "batch_stats": state}
    return kind(graph, likes, random, call), nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def _filled(like: Any, values: dict[str, Any]) -> Any:
    filled = jax.tree.map(lambda leaf: leaf, like)
    nnx.replace_by_pure_dict(filled, values)
    return filled
