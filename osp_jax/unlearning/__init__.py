"""Unlearning methods by name; one file a method, all with the same signature.

    unlearn(model, variables, forget, *, data, statistics, config, rng) -> variables

`forget` is a tuple of class numbers; `config` is the frozen `Options` of the method's file; `data` is what the method
may see of the images, and None for one that sees none.
"""

import ast
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from osp_jax.errors import InputError, unknown
from osp_jax.unlearning import logit_mask, osp, osp_fit


class Method(NamedTuple):
    """`unlearn`, as above, and the dataclass of its options."""

    unlearn: Callable[..., dict[str, Any]]
    options: type


METHODS: dict[str, Method] = {
    "osp": Method(osp.unlearn, osp.Options),
    "osp-fit": Method(osp_fit.unlearn, osp_fit.Options),
    "logit-mask": Method(logit_mask.unlearn, logit_mask.Options),
}


def get_method(name: str) -> Method:
    """Raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


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
