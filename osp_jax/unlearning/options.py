"""Checks of a method's settings, made where the settings are: no training starts with one that cannot be used."""

import math
from typing import Any

from osp_jax.errors import InputError


def check_options(options: Any, **ranges: tuple[float | None, float | None]) -> None:
    """Raises `InputError` for an option outside its range (low, high), bounds included, None for no bound."""
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        below, above = low is not None and value < low, high is not None and value > high
        if below or above or value != value or abs(value) == math.inf:
            bounds = f"from {low} to {high}" if None not in (low, high) else f"of at least {low}"
            raise InputError(f"option {name} is {value}; give a number {bounds}")
