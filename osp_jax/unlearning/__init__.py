"""Unlearning methods by name; one file a method, all with the same signature.

    unlearn(model, variables, forget, *, data, statistics, config, rng) -> variables

`forget` is a tuple of class numbers; `config` is the frozen `Options` of the method's file; `data` is what the method
may see of the images (`unlearning/data.py`), and None for one that sees none. Beside these two a method's file may have
`SEES`, which images it needs ('retain', 'forget'; none if it is not there), and `SEARCH`, by the name of an option the
values that a comparison may try for it.
"""

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from osp_jax.errors import InputError, unknown
from osp_jax.unlearning import finetune, logit_mask, osp, osp_fit


class Method(NamedTuple):
    """A method's file, read: see above."""

    unlearn: Callable[..., dict[str, Any]]
    options: type
    sees: tuple[str, ...] = ()
    search: Mapping[str, Sequence[Any]] = {}


METHODS: dict[str, ModuleType] = {
    "logit-mask": logit_mask,
    "osp": osp,
    "osp-fit": osp_fit,
    "finetune": finetune,
}


def get_method(name: str) -> Method:
    """Raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    file = METHODS[name]
    return Method(file.unlearn, file.Options, getattr(file, "SEES", ()), getattr(file, "SEARCH", {}))


def parse_options(method: Method, assignments: Sequence[str]) -> Any:
    """Options from 'name=value' texts.

    Raises:
      InputError: an unknown name, or a value of the wrong type.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(method.options)}
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in defaults:
            raise unknown("option", name, sorted(defaults) or ["(this method has none)"])
        kind = type(defaults[name])
        try:
            values[name] = text if kind is str else kind(_literal(text, kind))
        except (ValueError, SyntaxError, TypeError, OverflowError) as error:
            raise InputError(
                f"option {name}={text!r} is not a {kind.__name__}; its default is {defaults[name]!r}"
            ) from error
    return method.options(**values)


def _literal(text: str, kind: type) -> Any:
    value = ast.literal_eval(text.capitalize() if kind is bool else text)
    if not isinstance(value, (int, float)) or isinstance(value, bool) != (kind is bool):
        raise ValueError(text)
    if kind is int and value != int(value):
        raise ValueError(text)
    return value
