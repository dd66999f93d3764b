"""Unlearning methods by name; one file a method, all with the same signature.

    unlearn(model, variables, forget, *, data, statistics, config, rng) -> variables

`get_method(name).unlearn` takes `gone` too, the classes that were forgotten before; it checks what it is given and
keeps those away from the method (`methods/parts/door.py`).

`forget` is a tuple of class numbers; `config` is the frozen `Options` of the method's file; `data` is what it may see
of the images (`methods/parts/data.py`), and None for one that sees none. Beside these two a method's file may have
`SEES`, which images it needs ('retain', 'forget'; none if it is not there), `SEARCH`, by the name of an option the
values that a comparison may try for it, `check(params, channels, config)`, which raises `InputError` for a network
that the method cannot act on (it may see shapes in place of values), and `answers_from(statistics)`, whether these
hold all that it would else take from images.
"""

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from osp_jax.methods import (
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    cdp,
    cfk,
    class_aware,
    concept_erasure,
    conv_transpose,
    esc,
    euk,
    finetune,
    fisher,
    gradient_ascent,
    l1_sparse,
    logit_mask,
    msg,
    neggrad_plus,
    osp,
    osp_fit,
    random_label,
    retrain,
    salun,
    scrub,
    ssd,
    subspace,
    unsir,
)
from osp_jax.methods.parts import door
from osp_jax.runtime.errors import InputError, shown, unknown

_KINDS = {bool: "bool (True or False)", int: "int", float: "finite float", str: "text"}
_LARGEST = {bool: 1, int: 2**31 - 1, float: 1e30}  # what JAX's integers and floats of 32 bits hold


class Method(NamedTuple):
    """A method's file, read: see above; `unlearn` is `door.answer` of that file."""

    unlearn: Callable[..., dict[str, Any]]
    options: type
    sees: tuple[str, ...] = ()
    search: Mapping[str, Sequence[Any]] = {}
    check: Callable[[Any, Any, Any], None] | None = None
    answers_from: Callable[[Any], bool] | None = None

    def needs_images(self, statistics: Any) -> bool:
        """Whether a request must see training images, where these statistics are stored."""
        return bool(self.sees) and not (self.answers_from and self.answers_from(statistics))


METHODS: dict[str, ModuleType] = {
    "retrain": retrain,
    "logit-mask": logit_mask,
    "osp": osp,
    "osp-fit": osp_fit,
    "concept-erasure": concept_erasure,
    "finetune": finetune,
    "l1-sparse": l1_sparse,
    "gradient-ascent": gradient_ascent,
    "neggrad+": neggrad_plus,
    "cfk": cfk,
    "euk": euk,
    "conv-transpose": conv_transpose,
    "random-label": random_label,
    "salun": salun,
    "msg": msg,
    "ssd": ssd,
    "fisher": fisher,
    "unsir": unsir,
    "bad-teacher": bad_teacher,
    "scrub": scrub,
    "boundary-shrink": boundary_shrink,
    "boundary-expand": boundary_expand,
    "subspace": subspace,
    "esc": esc,
    "cdp": cdp,
    "class-aware": class_aware,
}


def get_method(name: str) -> Method:
    """Raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    file = METHODS[name]
    defaults = {"SEES": (), "SEARCH": {}, "check": None, "answers_from": None}
    optional = (getattr(file, name, default) for name, default in defaults.items())
    return Method(partial(door.answer, name, file), file.Options, *optional)


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
        except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as error:
            raise InputError(
                f"option {name}={shown(text)} is not a {_KINDS[kind]}; its default is {defaults[name]!r}"
            ) from error
    return method.options(**values)


def _literal(text: str, kind: type) -> Any:
    value = ast.literal_eval(text.capitalize() if kind is bool else text)
    if not isinstance(value, (int, float)) or isinstance(value, bool) != (kind is bool):
        raise ValueError(text)
    if kind is int and value != int(value):
        raise ValueError(text)
    if not abs(value) <= _LARGEST[kind]:  # nan is not
        raise ValueError(text)
    return value
