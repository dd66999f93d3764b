"""The options of a method: their declaration, checks and descriptions.

A method declares each of its settings once, as a field of its frozen dataclass:

    steps: int = option(200, "steps of Adam", low=0, source="the paper, section 4")

`check_options` enforces the declaration when the method is created, so that no training starts with invalid settings.
`describe_options` returns it for the help of a command, error messages and the documentation.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

from osp_jax.runtime.errors import InputError, shown, unknown

_LONGEST = 1000  # characters of a text option
_TYPES = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Option:
    """The declaration of one setting of a method.

    Attributes:
      name: name of the dataclass field.
      type: `bool`, `int`, `float` or `str`.
      default: the default value.
      meaning: its effect, in one phrase; empty if undeclared.
      source: origin of the default, such as a paper or a line of the authors' code; may be empty.
      low, high: inclusive bounds of a number; None for no bound.
      choices: the allowed texts; empty if any text is allowed.
    """

    name: str
    type: type
    default: Any
    meaning: str = ""
    source: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def values(self) -> str:
        """A description of the allowed values: 'True or False', 'int, at least 0', 'gate or head'."""
        if self.choices:
            return ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
        if self.type is bool:
            return "True or False"
        name = "text" if self.type is str else self.type.__name__
        return ", ".join(part for part in (name, _bounds(self.low, self.high)) if part)


def option(
    default: Any,
    meaning: str,
    *,
    source: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field that is an option of a method; the arguments are the attributes of `Option`."""
    declared = {"meaning": meaning, "source": source, "low": low, "high": high, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=declared)


def describe_options(options: Any) -> tuple[Option, ...]:
    """The options of a method, or of another dataclass of settings, in the order of its fields.

    Args:
      options: the class or an instance of it.
    """
    return tuple(
        Option(field.name, type(field.default), field.default, **field.metadata)
        for field in dataclasses.fields(options)
        if type(field.default) in _TYPES
    )


def check_options(options: Any, **ranges: tuple[float | None, float | None]) -> None:
    """Checks that each option has the type of its default, numbers are finite and in range, and texts are not too long.

    Args:
      options: a dataclass whose fields have defaults of type bool, int, float or str.
      ranges: (low, high) by option, inclusive, None for no bound; replaces the declared range.

    Raises:
      InputError: an option has another type, is out of range, or is not among its choices.
    """
    known = describe_options(options)
    for one in known:
        _check_type(one.name, getattr(options, one.name), one.type)
    for one in known:
        value = getattr(options, one.name)
        low, high = ranges.get(one.name, (one.low, one.high))
        if (low is not None and value < low) or (high is not None and value > high):
            raise InputError(f"option {one.name} is {shown(value)}; give a number {_bounds(low, high, 'of ')}")
        if one.choices:
            check_choices(options, **{one.name: one.choices})


def check_choices(options: Any, **choices: Sequence[str]) -> None:
    """Raises `InputError`, which lists the choices, for an option that is not among them."""
    for name, known in choices.items():
        if getattr(options, name) not in known:
            raise unknown(name, getattr(options, name), known)


def _bounds(low: float | None, high: float | None, of: str = "") -> str:
    if low is not None and high is not None:
        return f"from {low} to {high}"
    if low is not None:
        return f"{of}at least {low}"
    return f"{of}at most {high}" if high is not None else ""


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
        wanted, what = (numbers.Integral, "an integer") if kind is int else (numbers.Real, "a finite number")
        if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
            raise InputError(f"option {name} is {shown(value)}; give {what}")
