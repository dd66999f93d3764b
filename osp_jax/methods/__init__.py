"""Unlearning methods by name; one file a method, each a frozen dataclass of its settings.

    method = OspFit(margin=2.0)
    unlearned = unlearn_classes(method, model, (3,), statistics=statistics, rng=jax.random.key(0))

`unlearn_classes` checks the request and keeps classes that were forgotten before away from the method
(`methods/parts/door.py`). What a method is, and how to write one: `methods/parts/method.py`.
"""

import ast
import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from osp_jax.methods.parts.door import answer as unlearn_classes  # noqa: F401
from osp_jax.methods.parts.method import Method
from osp_jax.runtime.errors import InputError, shown, unknown

_KINDS = {bool: "bool (True or False)", int: "int", float: "finite float", str: "text"}
_LARGEST = {bool: 1, int: 2**31 - 1, float: 1e30}  # what JAX's integers and floats of 32 bits hold

_NAMES = {  # while the methods are being moved
    "retrain": "retrain.Retrain",
    "logit-mask": "logit_mask.LogitMask",
    "osp": "osp.Osp",
    "osp-fit": "osp_fit.OspFit",
    "concept-erasure": "concept_erasure.ConceptErasure",
    "finetune": "finetune.Finetune",
    "l1-sparse": "l1_sparse.L1Sparse",
    "gradient-ascent": "gradient_ascent.GradientAscent",
    "neggrad+": "neggrad_plus.NegGradPlus",
    "cfk": "cfk.Cfk",
    "euk": "euk.Euk",
    "conv-transpose": "conv_transpose.ConvTranspose",
    "random-label": "random_label.RandomLabel",
    "salun": "salun.Salun",
    "msg": "msg.Msg",
    "ssd": "ssd.Ssd",
    "fisher": "fisher.Fisher",
    "unsir": "unsir.Unsir",
    "bad-teacher": "bad_teacher.BadTeacher",
    "scrub": "scrub.Scrub",
    "boundary-shrink": "boundary_shrink.BoundaryShrink",
    "boundary-expand": "boundary_expand.BoundaryExpand",
    "subspace": "subspace.Subspace",
    "esc": "esc.Esc",
    "cdp": "cdp.Cdp",
    "class-aware": "class_aware.ClassAware",
}


def _moved() -> dict[str, type[Method]]:
    found = {}
    for name, place in _NAMES.items():
        file, kind = place.split(".")
        try:
            found[name] = getattr(import_module(f"osp_jax.methods.{file}"), kind)
        except Exception as error:  # noqa: BLE001
            print("not moved yet:", place, repr(error))
    return found


METHODS: dict[str, type[Method]] = _moved()


def get_method(name: str) -> type[Method]:
    """The class of a method. Raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def method_name(method: Method | type[Method]) -> str:
    """The name under which a method is registered; the name of its class where it is not."""
    kind = method if isinstance(method, type) else type(method)
    return next((name for name, known in METHODS.items() if known is kind), kind.__name__)


def parse_options(name: str, assignments: Sequence[str]) -> Method:
    """The method `name` with settings from 'setting=value' texts.

    Raises:
      InputError: an unknown name, or a value of the wrong type.
    """
    kind = get_method(name)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for assignment in assignments:
        option, _, text = assignment.partition("=")
        if option not in defaults:
            raise unknown("option", option, sorted(defaults) or ["(this method has none)"])
        values[option] = _parsed(option, text, defaults[option])
    return kind(**values)


def _parsed(option: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        return text if kind is str else kind(_literal(text, kind))
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise InputError(
            f"option {option}={shown(text)} is not a {_KINDS[kind]}; its default is {default!r}"
        ) from error


def _literal(text: str, kind: type) -> Any:
    value = ast.literal_eval(text.capitalize() if kind is bool else text)
    if not isinstance(value, (int, float)) or isinstance(value, bool) != (kind is bool):
        raise ValueError(text)
    if kind is int and value != int(value):
        raise ValueError(text)
    if not abs(value) <= _LARGEST[kind]:  # nan is not
        raise ValueError(text)
    return value
