"""Finds the train-mode arguments of a module in its signature, so that no user has to edit a network."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from osp_jax.runtime.errors import InputError

_TRAINS = ("train", "training", "is_training", "is_train")  # true in train mode
_RESTS = ("deterministic", "use_running_average", "inference", "eval", "evaluate")  # true in eval mode


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments after the images: names, and their values in train mode; `positional`: whether by position."""

    modes: tuple[tuple[str, bool], ...] = ()
    positional: bool = False

    def arguments(self, train: bool) -> tuple[tuple[bool, ...], dict[str, Any]]:
        """Returns the (positional, keyword) arguments of a call."""
        values = {name: train == trains for name, trains in self.modes}
        return (tuple(values.values()), {}) if self.positional else ((), values)


def find_call(function: Callable[..., Any], name: str) -> Call:
    """The call of `function(images, ...)`, a bound method.

    Args:
      name: name of the network, for errors.

    Raises:
      InputError: it takes no images, or has a required argument of unknown meaning.
    """
    parameters = list(inspect.signature(function).parameters.values())
    takes_images = parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if not takes_images:
        raise InputError(f"{name} takes no images as its first argument; wrap it with from_function")
    modes, positional = [], False
    for parameter in parameters[1:]:
        if parameter.name in _TRAINS or parameter.name in _RESTS:
            modes.append((parameter.name, parameter.name in _TRAINS))
            positional |= parameter.kind == inspect.Parameter.POSITIONAL_ONLY
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise InputError(
                f"{name} needs an argument {parameter.name!r}, whose value is unknown; wrap it with from_function"
            )
    return Call(tuple(modes), positional)


def mode_fields(module: Any) -> dict[str, bool]:
    """The fields of a dataclass that set the mode, and their values in train mode."""
    names = [field.name for field in dataclasses.fields(module)]
    return {name: name in _TRAINS for name in names if name in _TRAINS or name in _RESTS}
