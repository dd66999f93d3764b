"""Checks of a method's settings, made where the settings are: no training starts with one that cannot be used."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

from osp_jax.runtime.errors import InputError, shown, unknown

_LONGEST = 1000  # characters of an option that is text


def check_options(options: Any, **ranges: tuple[float | None, float | None]) -> None:
    """Checks the options of a method: each has the type of its default, numbers are finite, text is not endless.

    Args:
      options: a dataclass whose fields have defaults of type bool, int, float or str.
      ranges: (low, high) by option, bounds included, None for no bound.

    Raises:
      InputError: an option of another type or outside its range.
    """
    for field in dataclasses.fields(options):
        _check_type(field.name, getattr(options, field.name), type(field.default))
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"from {low} to {high}" if None not in (low, high) else f"of at least {low}"
            raise InputError(f"option {name} is {shown(value)}; give a number {bounds}")


def check_choices(options: Any, **choices: Sequence[str]) -> None:
    """Raises `InputError` for an option that is none of its choices; it lists them."""
    for name, known in choices.items():
        if getattr(options, name) not in known:
            raise unknown(name, getattr(options, name), known)


def _check_type(name: str, value: Any, kind: type) -> None:
    if kind is str:
        if not isinstance(value, str):
            raise InputError(f"option {name} is {shown(value)}; give a text")
        if len(value) > _LONGEST:
            raise InputError(f"option {name} has {len(value):,} characters; give at most {_LONGEST:,}")
    elif kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"option {name} is {shown(value)}; give True or False")
    else:
        wanted, what = (numbers.Integral, "a whole number") if kind is int else (numbers.Real, "a finite number")
        if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
            raise InputError(f"option {name} is {shown(value)}; give {what}")
