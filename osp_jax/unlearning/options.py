"""Checks of a method's settings, made where the settings are: no training starts with one that cannot be used."""

import math
from collections.abc import Sequence
from typing import Any

from osp_jax.errors import InputError, unknown


def check_options(options: Any, **ranges: tuple[float | None, float | None]) -> None:
    """Raises `InputError` for an option outside its range (low, high), bounds included, None for no bound."""
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        below, above = low is not None and value < low, high is not None and value > high
        if below or above or value != value or abs(value) == math.inf:
            bounds = f"from {low} to {high}" if None not in (low, high) else f"of at least {low}"
            raise InputError(f"option {name} is {value}; give a number {bounds}")


def check_choices(options: Any, **choices: Sequence[str]) -> None:
    """Raises `InputError` for an option that is none of its choices; it lists them."""
    for name, known in choices.items():
        if getattr(options, name) not in known:
            raise unknown(name, getattr(options, name), known)
